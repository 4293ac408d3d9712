"""The same over each way to a Redis that Celery knows."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest
import redis
from celery import Celery, uuid

from .green import crowd, spawn_get, wait_until
from .proxy import proxied
from .servers import OWNER, Process, RedisServer, free_port, redis_executable


def use(app: Celery) -> None:
    """Get results that are there, that come, and by a callback; leave nothing behind."""
    there, coming = uuid(), uuid()
    app.backend.store_result(there, 1, "SUCCESS")
    called: list[object] = []
    app.AsyncResult(coming).then(lambda result: called.append(result.get()))

    def wait(i: int) -> object:
        if i == 2:
            return app.backend.store_result(coming, 2, "SUCCESS")
        return app.AsyncResult((there, coming)[i]).get(timeout=20)

    assert crowd(3, wait)[:2] == [1, 2]
    wait_until(lambda: called == [2], "the callback")


def test_unix_socket(make: Callable[..., Celery], tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    server = RedisServer("--unixsocket", str(path))
    use(make(results=f"redis+socket://{path}?virtual_host=3"))
    server.end()


def test_database_and_password(make: Callable[..., Celery]) -> None:
    server = RedisServer()
    server.probe.config_set("requirepass", "pass:word")
    app = make(results=server.url(database=5).replace("://", "://:pass%3Aword@"))
    use(app)
    assert int(server.probe.info("keyspace")["db5"]["keys"]) == 2
    server.end()


@pytest.mark.skipif(redis.VERSION < (5,), reason="redis-py speaks RESP3 since 5.0")
def test_resp3(make: Callable[..., Celery], results: RedisServer) -> None:
    use(make(results=results.url("web") + "&protocol=3"))


@pytest.mark.skipif(redis.VERSION < (5,), reason="redis-py speaks RESP3 since 5.0")
def test_resp3_without_pushes(
    make: Callable[..., Celery], results: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """As some servers have it that stand in for Redis."""
    with proxied(results.port) as proxy:
        proxy.flatten()
        url = results.url("web", port=proxy.port)
        app = make(results=url)
        with caplog.at_level(logging.INFO):
            use(app)
            use(app)
        statistics = app.backend.result_consumer.statistics()
        assert (statistics.connections, statistics.connects) == (2, 2)
        assert caplog.text.count("RESP3 without pushes") == 1
        proxy.pass_on()


def test_tls(
    make: Callable[..., Celery],
    results: RedisServer,
    tls: Callable[[int], AbstractContextManager[tuple[int, Path]]],
) -> None:
    with tls(results.port) as (port, authority):
        options = f"client_name=web&ssl_cert_reqs=required&ssl_ca_certs={authority}"
        use_much(make(results=f"rediss://localhost:{port}/0?{options}"))


def use_much(app: Celery) -> None:
    use(app)
    # Many results, larger than what TLS holds in one record, so that reads end in the middle.
    called: list[int] = []
    ids = [uuid() for _ in range(50)]
    for task_id in ids:
        app.AsyncResult(task_id).then(lambda result: called.append(len(result.get())))
    for task_id in ids:
        app.backend.store_result(task_id, "x" * 100_000, "SUCCESS")
    wait_until(lambda: called == [100_000] * 50, "all callbacks")
    app.backend.result_consumer.stop()
    app.backend.client.connection_pool.disconnect()


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[tuple[list[int], RedisServer, RedisServer]]:
    """Three sentinels, the master they watch, and a replica of that."""
    master = RedisServer("--repl-diskless-sync-delay", "0")
    of_it = ("--replicaof", "127.0.0.1", str(master.port))
    replica = RedisServer(*of_it, password=master.password)
    ports = [free_port() for _ in range(3)]
    processes = []
    for port in ports:
        folder = tmp_path / str(port)
        folder.mkdir()
        (folder / "sentinel.conf").write_text(
            f"port {port}\n"
            f"dir {folder}\n"
            f"sentinel monitor main 127.0.0.1 {master.port} 2\n"
            f"sentinel auth-user main {OWNER}\n"
            f"sentinel auth-pass main {master.password}\n"
            "sentinel down-after-milliseconds main 1000\n"
            "sentinel failover-timeout main 3000\n"
        )
        processes.append(Process(redis_executable(), str(folder / "sentinel.conf"), "--sentinel"))
    probes = [redis.Redis(port=port, decode_responses=True) for port in ports]

    def know() -> bool:
        try:
            return all(
                probe.sentinel_slaves("main") and len(probe.sentinel_sentinels("main")) == 2
                for probe in probes
            )
        except redis.RedisError:
            return False

    wait_until(know, "the sentinels to know each other and the replica", timeout=60)
    yield ports, master, replica
    for probe in probes:
        probe.close()
    for process in processes:
        process.end()
    replica.end()
    master.end()


def test_a_sentinel_that_does_not_answer_is_left(
    make: Callable[..., Celery], sentinels: tuple[list[int], RedisServer, RedisServer]
) -> None:
    ports, *_ = sentinels
    options = {"result_backend_transport_options": {"master_name": "main"}}

    def address(*ports: int) -> str:
        return ";".join(f"sentinel://127.0.0.1:{port}/0" for port in ports)

    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        results = address(silent.getsockname()[1], *ports)
        app = make(results=results, result_drainer_heartbeat=1, **options)
        task_id = uuid()
        outcome = spawn_get(app.AsyncResult(task_id))
        make(results=address(*ports), **options).backend.store_result(task_id, 1, "SUCCESS")
        wait_until(lambda: outcome == [1], "the result")


def test_sentinel(
    make: Callable[..., Celery], sentinels: tuple[list[int], RedisServer, RedisServer]
) -> None:
    """The master falls silent, comes back as a replica, and is master again when the next dies."""
    ports, first, second = sentinels
    app = make(
        results=";".join(f"sentinel://127.0.0.1:{port}/0" for port in ports),
        result_backend_transport_options={"master_name": "main"},
        result_backend_always_retry=True,  # for storing, which is the worker's part
        result_backend_max_retries=11,  # not for ever, as this process has other tests to run
        result_drainer_heartbeat=1,
        result_drainer_retry_max=0.5,
        redis_socket_timeout=1,
    )
    use(app)
    for old, new, fail in ((first, second, signal.SIGSTOP), (second, first, signal.SIGKILL)):
        pending = [uuid() for _ in range(10)]
        called: list[str] = []
        for task_id in pending:
            app.AsyncResult(task_id).then(lambda result: called.append(result.id))  # noqa: B023
        wait_until(lambda: old.subscriptions("") == 10, "the subscriptions")  # noqa: B023
        old.process.send(fail)
        try:
            role = new.probe.info
            wait_until(lambda: role()["role"] == "master", "the failover", timeout=60)  # noqa: B023
            wait_until(lambda: new.subscriptions("") == 10, "the arrival", timeout=60)  # noqa: B023
        finally:
            if fail == signal.SIGSTOP:
                old.process.send(signal.SIGCONT)
        if fail == signal.SIGSTOP:
            role = old.probe.info
            wait_until(lambda: role()["role"] == "slave", "the old one's demotion", timeout=60)  # noqa: B023
            wait_until(lambda: role()["master_link_status"] == "up", "its copy", timeout=60)  # noqa: B023
        for task_id in pending:
            app.backend.store_result(task_id, 1, "SUCCESS")
        wait_until(lambda: sorted(called) == sorted(pending), "all callbacks")  # noqa: B023
    app.backend.result_consumer.stop()
