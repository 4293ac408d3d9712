"""The same over each way to a Redis that Celery knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery, uuid

from .green import crowd, wait_until
from .servers import Process, RedisServer, free_port, redis_executable
from .tls_proxy import tls


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
    server.probe.execute_command("AUTH", "pass:word")
    assert int(server.probe.info("keyspace")["db5"]["keys"]) == 2
    server.end()


@pytest.mark.skipif(redis.VERSION < (5,), reason="redis-py speaks RESP3 since 5.0")
def test_resp3(make: Callable[..., Celery], results: RedisServer) -> None:
    use(make(results=results.url("web") + "&protocol=3"))


def test_tls(make: Callable[..., Celery], results: RedisServer, tmp_path: Path) -> None:
    with tls(results.port, tmp_path) as (port, authority):
        options = f"client_name=web&ssl_cert_reqs=required&ssl_ca_certs={authority}"
        app = make(results=f"rediss://localhost:{port}/0?{options}")
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
def sentinel(tmp_path: Path) -> Iterator[tuple[int, RedisServer, RedisServer]]:
    """A sentinel, the master it watches, and a replica of that."""
    master = RedisServer()
    replica = RedisServer("--replicaof", "127.0.0.1", str(master.port))
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\n"
        f"dir {tmp_path}\n"
        f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 1000\n"
        "sentinel failover-timeout main 3000\n"
    )
    process = Process(redis_executable(), str(config), "--sentinel")
    probe = redis.Redis(port=port, decode_responses=True)

    def knows() -> bool:
        try:
            return bool(probe.sentinel_slaves("main"))
        except redis.RedisError:
            return False

    wait_until(knows, "the sentinel to know the replica", timeout=60)
    yield port, master, replica
    probe.close()
    process.end()
    replica.end()
    master.end()


def test_sentinel(
    make: Callable[..., Celery], sentinel: tuple[int, RedisServer, RedisServer]
) -> None:
    """The master dies, and the drainer follows to the next one."""
    port, master, replica = sentinel
    app = make(
        results=f"sentinel://127.0.0.1:{port}/0",
        result_backend_transport_options={"master_name": "main"},
        result_backend_always_retry=True,  # for storing, which is the worker's part
    )
    use(app)
    pending = [uuid() for _ in range(10)]
    called: list[str] = []
    for task_id in pending:
        app.AsyncResult(task_id).then(lambda result: called.append(result.id))
    wait_until(lambda: master.subscriptions("") == 10, "the subscriptions")
    master.kill()
    wait_until(lambda: replica.probe.info()["role"] == "master", "the failover", timeout=60)
    wait_until(lambda: replica.subscriptions("") == 10, "the drainer's arrival", timeout=60)
    for task_id in pending:
        app.backend.store_result(task_id, 1, "SUCCESS")
    wait_until(lambda: sorted(called) == sorted(pending), "all callbacks")
