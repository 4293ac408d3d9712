"""What can be wrong with an address, and what one is told: not less than by the library itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import kombu
import pytest
import redis
from celery import Celery, uuid

from .green import spawn_get, wait_until
from .rabbitmq import RabbitServer
from .servers import RedisServer, free_port

#: Seconds that a wait has.
PATIENCE = 1.5


@pytest.fixture(scope="module")
def locked() -> Iterator[RedisServer]:
    """A Redis that asks for a password."""
    server = RedisServer()
    server.probe.config_set("requirepass", "secret")
    yield server
    server.end()


def told(make: Callable[..., Celery], **conf: Any) -> tuple[str, float]:
    """The error of a wait, and after how many seconds it has come."""
    app = make(result_drainer_heartbeat=1, **conf)
    begun = time.monotonic()
    outcome = spawn_get(app.AsyncResult(uuid()), timeout=PATIENCE)
    wait_until(lambda: outcome, "the end of the wait")
    assert isinstance(outcome[0], Exception)
    return " ".join(str(outcome[0]).split()), time.monotonic() - begun


def said(attempt: Callable[[], object]) -> str:
    """The error of the library itself, which is what stock Celery passes on."""
    try:
        attempt()
    except Exception as exc:
        return " ".join(str(exc).split())
    raise AssertionError("nothing is wrong")


def by_redis_py(url: str) -> str:
    return said(
        lambda: redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1).ping()
    )


#: What is wrong: the address, as it is made from that of a server, and whether that is certain.
REDIS = {
    "nobody listens": ("redis://127.0.0.1:{free}/0", False),
    "no such socket": ("redis+socket:///no/such/socket", False),
    "TLS to a server without": ("rediss://127.0.0.1:{open}/0?ssl_cert_reqs=none", False),
    "no password": ("redis://127.0.0.1:{locked}/0", True),
    "a wrong password": ("redis://:wrong@127.0.0.1:{locked}/0", True),
    "no such user": ("redis://nobody:secret@127.0.0.1:{locked}/0", True),
    "no such database": ("redis://127.0.0.1:{open}/4711", True),
    "another service": ("redis://127.0.0.1:{rabbit}/0", False),
}


@pytest.mark.parametrize("wrong", REDIS)
def test_an_address_of_redis(
    make: Callable[..., Celery],
    results: RedisServer,
    locked: RedisServer,
    request: pytest.FixtureRequest,
    wrong: str,
) -> None:
    pattern, certain = REDIS[wrong]
    ports = {"open": results.port, "locked": locked.port}
    if "{rabbit}" in pattern:
        ports["rabbit"] = request.getfixturevalue("rabbit").port
    url = pattern.format(free=free_port(), **ports)
    text, seconds = told(make, results=url)
    assert by_redis_py(url.replace("redis+socket", "unix")) in text
    if certain:
        assert seconds < PATIENCE


def test_a_certificate_that_is_not_trusted(
    make: Callable[..., Celery],
    results: RedisServer,
    tls: Callable[[int], AbstractContextManager[tuple[int, Path]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with tls(results.port) as (port, _):
        told(make, results=f"rediss://localhost:{port}/0?ssl_cert_reqs=required")
    # In the log, as the proxy of this test ends with its first client.
    assert "certificate verify failed" in caplog.text


RABBITMQ = {
    "nobody listens": "amqp://guest:guest@127.0.0.1:{free}//",
    "a wrong password": "amqp://guest:wrong@127.0.0.1:{rabbit}//",
    "no such virtual host": "amqp://guest:guest@127.0.0.1:{rabbit}/nowhere",
    "another service": "amqp://guest:guest@127.0.0.1:{open}//",
}


@pytest.mark.parametrize("wrong", RABBITMQ)
def test_an_address_of_rabbitmq(
    make: Callable[..., Celery], results: RedisServer, rabbit: RabbitServer, wrong: str
) -> None:
    url = RABBITMQ[wrong].format(free=free_port(), rabbit=rabbit.port, open=results.port)
    text, _ = told(make, broker=url, results="rpc://", broker_connection_timeout=0.5)
    library = said(lambda: kombu.Connection(url, connect_timeout=0.5).connect())
    assert library in text
