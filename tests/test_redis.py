"""What goes over the wire to Redis, and what comes back when the wire breaks."""

from __future__ import annotations

import gc
import logging
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery, uuid
from celery.exceptions import TimeoutError

from celery_green_drain.consumers import redis as consumers

from .green import GREEN, crowd, kill, size, spawn, wait_until
from .servers import RedisServer


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """A result store that a test may do anything to."""
    server = RedisServer()
    yield server
    server.end()


def test_a_wait_is_subscribe_then_mget(
    app: Celery, store: Callable[..., str], results: RedisServer
) -> None:
    task_id = store(1)
    results.reset_calls()
    assert app.AsyncResult(task_id).get(timeout=5) == 1
    wait_until(lambda: not results.subscriptions(), "the end of the subscription")
    calls = {name: results.calls(name) for name in ("subscribe", "mget", "unsubscribe", "get")}
    assert calls == {"subscribe": 1, "mget": 1, "unsubscribe": 1, "get": 0}


def test_delay_alone_sends_nothing(app: Celery, results: RedisServer) -> None:
    results.reset_calls()
    for i in range(100):
        app.tasks["add"].delay(i, i)
    assert results.calls("subscribe") == 0
    assert results.clients() == []
    assert app.backend.result_consumer.statistics().drainer is None


def test_a_second_wait_for_a_subscribed_task(
    app: Celery, store: Callable[..., str], results: RedisServer
) -> None:
    """Its result may have been stored between; it need not be subscribed to again."""
    task_id = uuid()
    with pytest.raises(TimeoutError):
        app.AsyncResult(task_id).get(timeout=0.2)
    results.reset_calls()
    store(task_id=task_id)
    assert app.AsyncResult(task_id).get(timeout=5) == 42


def test_a_wait_that_ends_unsubscribes(app: Celery, results: RedisServer) -> None:
    with pytest.raises(TimeoutError):
        app.AsyncResult(uuid()).get(timeout=0.2)
    wait_until(lambda: not results.subscriptions(), "the end of the subscription")
    assert app.backend.result_consumer.statistics().pending == 0


def test_a_wait_that_ends_leaves_the_others_theirs(app: Celery, results: RedisServer) -> None:
    task_id = uuid()
    other = app.AsyncResult(task_id)
    other.then(lambda result: None)
    with pytest.raises(TimeoutError):
        app.AsyncResult(task_id).get(timeout=0.2)
    assert crowd(1, lambda i: results.subscriptions())[0]
    app.backend.remove_pending_result(other)
    wait_until(lambda: not results.subscriptions(), "the end of the subscription")


@pytest.mark.skipif(not GREEN, reason="a thread cannot be killed")
def test_a_killed_waiter_unsubscribes(app: Celery, results: RedisServer) -> None:
    result = app.AsyncResult(uuid())  # outlives the waiter
    waiter = spawn(result.get)
    wait_until(results.subscriptions, "the subscription")
    kill(waiter)
    wait_until(lambda: not results.subscriptions(), "the end of the subscription")


def test_finalised_results_unsubscribe(app: Celery, results: RedisServer) -> None:
    pending = [app.AsyncResult(uuid()) for _ in range(50)]
    for result in pending:
        result.then(print, weak=True)
    wait_until(lambda: results.subscriptions() == 50, "the subscriptions")
    del pending, result
    gc.collect()
    wait_until(lambda: not results.subscriptions(), "the end of the subscriptions")


def test_many_unsubscribe_at_once(app: Celery, results: RedisServer) -> None:
    """More than are left to linger."""
    pending = [app.AsyncResult(uuid()) for _ in range(2 * consumers.CHUNK)]
    for result in pending:
        result.then(print)
    wait_until(lambda: results.subscriptions() == len(pending), "the subscriptions")
    results.reset_calls()
    for result in pending:
        app.backend.remove_pending_result(result)
    wait_until(lambda: not results.subscriptions(), "the end of the subscriptions")
    assert results.calls("unsubscribe") <= 20


def test_single_commands_wait_for_a_free_connection(
    make: Callable[..., Celery], results: RedisServer
) -> None:
    app = make(redis_max_connections=3)
    states = crowd(size(300, 50), lambda i: app.AsyncResult(uuid()).state)
    assert set(states) == {"PENDING"}
    assert len(results.clients()) <= 3


def test_the_pool_is_small_by_default(app: Celery, results: RedisServer) -> None:
    crowd(size(300, 50), lambda i: app.AsyncResult(uuid()).ready())
    assert len(results.clients()) <= 10


def test_the_store_is_believed_after_an_outage(
    app: Celery, store: Callable[..., str], results: RedisServer
) -> None:
    """States whose messages were lost with the connection are shown all the same."""
    task_id = uuid()
    seen: list[object] = []
    waiter = spawn(
        lambda: app.AsyncResult(task_id).get(
            timeout=30, on_message=lambda meta: seen.append(meta["result"])
        )
    )
    wait_until(results.subscriptions, "the subscription")
    store(1, "PROGRESS", task_id)
    wait_until(lambda: seen == [1], "the first state")
    (client,) = results.clients(sub="1")
    results.probe.client_kill(client["addr"])
    store(2, "PROGRESS", task_id)
    wait_until(lambda: seen == [1, 2], "the state from the store, or its message")
    store(3, task_id=task_id)
    wait_until(lambda: seen == [1, 2, 3], "the end")
    del waiter


def test_global_keyprefix(make: Callable[..., Celery]) -> None:
    app = make(result_backend_transport_options={"global_keyprefix": "mine"})
    task_id = uuid()
    app.backend.store_result(task_id, 1, "SUCCESS")
    assert app.AsyncResult(task_id).get(timeout=5) == 1
    assert app.backend.client.keys(f"mine_*{task_id}")


def test_responses_decoded_by_the_users_choice(
    make: Callable[..., Celery], results: RedisServer
) -> None:
    app = make(results=results.url("web") + "&decode_responses=true")
    task_id = uuid()
    app.backend.store_result(task_id, 1, "SUCCESS")
    assert app.AsyncResult(task_id).get(timeout=5) == 1


def test_compressed_results(make: Callable[..., Celery], results: RedisServer) -> None:
    app = make(result_compression="gzip")
    task_id = uuid()
    app.backend.store_result(task_id, {"text": "x" * 5000}, "SUCCESS")
    if len(results.probe[app.backend.get_key_for_task(task_id)]) > 1000:
        pytest.skip("this version of Celery compresses no results")
    assert app.AsyncResult(task_id).get(timeout=20) == {"text": "x" * 5000}


def test_a_large_result(app: Celery, store: Callable[..., str]) -> None:
    task_id = uuid()
    result = app.AsyncResult(task_id)
    calls: list[str] = []
    result.then(lambda result: calls.append(result.get()))
    large = "x" * 5_000_000  # many reads long
    store(large, task_id=task_id)
    wait_until(lambda: calls, "the callback")
    assert calls == [large]
    assert app.AsyncResult(task_id).get(timeout=5) == large


def test_more_than_a_batch_at_once(app: Celery, store: Callable[..., str]) -> None:
    """While a batch is handled others run, and nothing of the rest is forgotten."""
    ids = [store(i) for i in range(3 * consumers.BATCH)]
    calls: list[int] = []
    for task_id in ids:
        app.AsyncResult(task_id).then(lambda result: calls.append(result.get()))
    wait_until(lambda: len(calls) == len(ids), "all callbacks")
    ids = [uuid() for _ in ids]
    for task_id in ids:
        app.AsyncResult(task_id).then(lambda result: calls.append(result.get()))
    subscribed = f"celery-task-meta-{ids[-1]}"
    wait_until(lambda: app.backend.client.pubsub_numsub(subscribed)[0][1], "the subscriptions")
    with app.backend.client.pipeline() as pipe:
        for task_id in ids:
            key = app.backend.get_key_for_task(task_id)
            meta = app.backend.encode({"status": "SUCCESS", "result": 1, "task_id": task_id})
            pipe.set(key, meta)
            pipe.publish(key, meta)
        pipe.execute()
    wait_until(lambda: len(calls) == 2 * len(ids), "all callbacks")


GARBAGE = [
    *(b"{", b"\x00\xff", b"[]", b'{"task_id": 1}', b"null"),
    # What can be decoded, and is no result all the same.
    b'{"status": "SUCCESS", "result": 1, "children": [5]}',
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_cannot_be_read_fails_its_waiter_alone(
    app: Celery, store: Callable[..., str], garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    task_id, other = uuid(), uuid()
    errors: list[BaseException] = []
    app.AsyncResult(task_id).then(print, errors.append)

    def wait(i: int) -> object:
        if i == 2:
            key = app.backend.get_key_for_task(task_id)
            wait_until(lambda: app.backend.client.pubsub_numsub(key)[0][1], "the subscription")
            app.backend.client.publish(key, garbage)
            return store(1, task_id=other)
        return app.AsyncResult((task_id, other)[i]).get(timeout=20)

    failed, fine, _ = crowd(3, wait)
    assert isinstance(failed, Exception)
    assert not isinstance(failed, TimeoutError)
    assert fine == 1
    wait_until(lambda: errors, "on_error")
    assert task_id in caplog.text
    assert app.backend.result_consumer.statistics().unreadable >= 1
    # And what is readable by then is read.
    store(2, task_id=task_id)
    assert app.AsyncResult(task_id).get(timeout=5) == 2


def test_garbage_in_the_store(app: Celery, store: Callable[..., str]) -> None:
    task_id = uuid()
    key = app.backend.get_key_for_task(task_id)
    app.backend.client.set(key, b"{")
    result = app.AsyncResult(task_id)
    with pytest.raises(Exception, match="Expecting property name"):
        result.get(timeout=5)
    app.backend.client.delete(key)
    store(task_id=task_id, value=1)
    assert result.get(timeout=5) == 1


# -- lost connections


def get_through(app: Celery, break_it: Callable[[], object], ids: list[str]) -> list[object]:
    """Wait for *ids* while the connection is broken."""
    calls: list[str] = []
    for task_id in ids:
        app.AsyncResult(task_id).then(lambda result: calls.append(result.id))

    def get(i: int) -> object:
        return break_it() if i == len(ids) else app.AsyncResult(ids[i]).get(timeout=60)

    outcomes = crowd(len(ids) + 1, get)[:-1]
    wait_until(lambda: sorted(calls) == sorted(ids), "all callbacks, once each")
    return outcomes


def test_killed_connection(
    app: Celery, store: Callable[..., str], results: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [uuid() for _ in range(20)]

    def cut() -> None:
        wait_until(lambda: results.subscriptions() == 20, "the subscriptions")
        (client,) = results.clients(sub="20")
        results.probe.client_kill(client["addr"])
        for task_id in ids[:10]:
            store(1, task_id=task_id)
        wait_until(lambda: results.clients(sub="10"), "the drainer to be back")
        for task_id in ids[10:]:
            store(1, task_id=task_id)

    with caplog.at_level(logging.WARNING):
        assert get_through(app, cut, ids) == [1] * 20
    wait_until(lambda: "is back after" in caplog.text, "the log line")
    assert caplog.text.count("Lost the connection") == 1
    assert caplog.text.count("is back after") == 1
    assert app.backend.result_consumer.statistics().connects == 2


def test_restarted_server(
    make: Callable[..., Celery], own: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    app = make(results=own.url("web"))
    ids = [uuid() for _ in range(20)]

    def restart() -> None:
        wait_until(lambda: own.subscriptions() == 20, "the subscriptions")
        own.kill()
        wait_until(lambda: "Lost the connection" in caplog.text, "the loss to be noticed")
        own.start()
        for task_id in ids:
            app.backend.store_result(task_id, 1, "SUCCESS")

    assert get_through(app, restart, ids) == [1] * 20


def test_a_server_that_is_not_there_yet(make: Callable[..., Celery], own: RedisServer) -> None:
    app = make(results=own.url("web"))
    task_id = uuid()
    app.backend.store_result(task_id, 1, "SUCCESS")
    own.kill()

    def start() -> None:
        wait_until(lambda: app.backend.result_consumer.statistics().drainer, "the first wait")
        time.sleep(0.3)  # through some attempts
        own.start()

    assert get_through(app, start, [task_id]) == [1]


def test_a_server_that_falls_silent(
    make: Callable[..., Celery], own: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped, it neither answers nor closes: noticed by the heartbeat."""
    import signal

    app = make(results=own.url("web"), result_drainer_heartbeat=0.5)
    task_id = uuid()

    def pause() -> None:
        wait_until(own.subscriptions, "the subscription")
        own.process.send(signal.SIGSTOP)
        wait_until(lambda: "Lost the connection" in caplog.text, "the silence to be noticed")
        own.process.send(signal.SIGCONT)
        app.backend.store_result(task_id, 1, "SUCCESS")

    assert get_through(app, pause, [task_id]) == [1]
    assert "not answered" in caplog.text


def test_a_healthy_idle_connection_is_kept(
    make: Callable[..., Celery], results: RedisServer
) -> None:
    app = make(result_drainer_heartbeat=0.2)
    task_id = uuid()
    results.reset_calls()
    calls: list[object] = []
    app.AsyncResult(task_id).then(calls.append)
    wait_until(lambda: results.calls("ping") > 6, "some heartbeats")
    app.backend.store_result(task_id, 1, "SUCCESS")
    wait_until(lambda: calls, "the callback")
    assert app.backend.result_consumer.statistics().connects == 1


def test_a_lost_message_is_made_up_for(make: Callable[..., Celery], results: RedisServer) -> None:
    app = make(result_drainer_reconcile_interval=0.5)
    task_id = uuid()

    def store_silently() -> None:
        wait_until(results.subscriptions, "the subscription")
        meta = app.backend.encode({"status": "SUCCESS", "result": 1, "task_id": task_id})
        app.backend.client.set(app.backend.get_key_for_task(task_id), meta)

    assert get_through(app, store_silently, [task_id]) == [1]


def test_a_refusal_is_told_at_once(make: Callable[..., Celery], own: RedisServer) -> None:
    own.probe.config_set("requirepass", "secret")
    app = make(results=own.url("web"))
    with pytest.raises(redis.exceptions.AuthenticationError):
        app.AsyncResult(uuid()).get(timeout=20)
    own.probe.execute_command("AUTH", "secret")
    own.probe.config_set("requirepass", "")
    task_id = uuid()
    app.backend.store_result(task_id, 1, "SUCCESS")
    assert app.AsyncResult(task_id).get(timeout=20) == 1


@pytest.fixture(params=["hiredis", "redis-py"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads the responses: hiredis, or redis-py where that is not installed."""
    if request.param == "redis-py":
        monkeypatch.setattr(consumers, "hiredis", None)


@pytest.mark.usefixtures("parser")
def test_what_is_stored_and_what_comes(app: Celery, store: Callable[..., str]) -> None:
    stored, later = app.AsyncResult(store("stored")), app.AsyncResult(uuid())
    assert stored.get(timeout=20) == "stored"
    called: list[Any] = []
    later.then(lambda result: called.append(result.get()))
    wait_until(lambda: app.backend.result_consumer.statistics().pending, "the wait")
    store("x" * 200_000, task_id=later.id)
    wait_until(lambda: called == ["x" * 200_000], "the callback")
    assert app.backend.result_consumer.statistics().connects == 1


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (b"-NOPERM no rights here\r\n", redis.exceptions.NoPermissionError),
        (b"-NOAUTH Authentication required.\r\n", redis.exceptions.AuthenticationError),
        (b"-ERR unknown command\r\n", redis.exceptions.ResponseError),
        (b"?nonsense\r\n", redis.exceptions.InvalidResponse),
    ],
)
def test_error_responses(own: RedisServer, refusal: bytes, error: type[Exception]) -> None:
    ours, theirs = socket.socketpair()
    link = linked(own, ours)
    theirs.send(b"+OK\r\n" + refusal)
    responses = link.responses()
    assert next(responses) == b"OK"
    with pytest.raises(error):
        next(responses)
    theirs.close()
    link.close()


def linked(server: RedisServer, sock: socket.socket) -> consumers.Link:
    """A link that reads from *sock* instead."""
    link = consumers.Link(redis.ConnectionPool(port=server.port))
    link._connection._sock.close()
    link._connection._sock = sock
    link._connection._parser.on_connect(link._connection)
    return link


@pytest.mark.usefixtures("parser")
def test_responses_in_pieces_block_nobody(own: RedisServer) -> None:
    """One that has arrived in part is left for the next time, whichever parser reads it."""
    ours, theirs = socket.socketpair()
    link = linked(own, ours)
    for piece, expected in ((b"*1\r\n$4\r\nha", []), (b"lf\r\n+OK\r\n:", [[b"half"], b"OK"])):
        theirs.send(piece)
        assert list(link.responses()) == expected
    theirs.close()
    with pytest.raises(redis.ConnectionError, match="closed"):
        list(link.responses())
    link.close()


def test_the_private_name_of_redis_py_is_still_there(results: RedisServer) -> None:
    pool = redis.ConnectionPool(port=results.port)
    link = consumers.Link(pool)
    assert link.fileno() > 0
    link.close()
