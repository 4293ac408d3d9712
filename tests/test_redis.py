"""What goes over the wire to Redis, and what comes back when the wire breaks."""

from __future__ import annotations

import gc
import json
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import redis
from celery import Celery, uuid
from celery.backends.base import BaseKeyValueStoreBackend
from celery.exceptions import TimeoutError
from celery.result import ResultSet

from celery_green_drain import watch
from celery_green_drain.backends.redis import RedisBackend
from celery_green_drain.consumers.base import OutOfStep
from celery_green_drain.consumers.redis import consumer as redis_consumer
from celery_green_drain.consumers.redis import link as redis_link
from celery_green_drain.consumers.redis import session as redis_session
from celery_green_drain.internals import redis_socket
from celery_green_drain.pending import InboxWait

from .conftest import storing
from .green import GREEN, crowd, kill, size, spawn, spawn_get, wait_until
from .servers import RedisServer


def test_a_wait_is_subscribe_then_mget(
    app: Celery, store: Callable[..., str], results: RedisServer
) -> None:
    task_id = store(1)
    results.reset_calls()
    assert app.AsyncResult(task_id).get(timeout=5) == 1
    wait_until(lambda: not results.subscriptions(), "the end of the subscription")
    calls = {name: results.calls(name) for name in ("subscribe", "unsubscribe", "get")}
    assert calls == {"subscribe": 1, "unsubscribe": 1, "get": 0}
    # Over two connections the first look may end after the confirmation has begun a second.
    assert results.calls("mget") in ({1} if redis_consumer.RESP3 else {1, 2})


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
    pending = [app.AsyncResult(uuid()) for _ in range(2 * redis_session.CHUNK)]
    for result in pending:
        result.then(print)
    wait_until(lambda: results.subscriptions() == len(pending), "the subscriptions")
    results.reset_calls()
    for result in pending:
        app.backend.remove_pending_result(result)
    wait_until(lambda: not results.subscriptions(), "the end of the subscriptions")
    assert results.calls("unsubscribe") <= 20


@pytest.mark.parametrize("pile", [10_000, 1000])
def test_results_that_come_one_upon_the_other_go_first(
    app: Celery, results: RedisServer, monkeypatch: pytest.MonkeyPatch, pile: int
) -> None:
    """Before what has come is unsubscribed from, unless very much has."""
    monkeypatch.setattr(redis_session, "PILE", pile)
    inbox = Witness(app, results, 3000)
    inbox.receive(3000)
    assert (inbox.subscriptions == 3000) == (pile > 3000)
    inbox.wait.close()
    wait_until(lambda: results.subscriptions() == 0, "the end of all")


def test_a_pause_is_not_the_end_of_them(
    app: Celery, results: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sends them may have to wait for a moment. The loop sleeps until it is over."""
    monkeypatch.setattr(redis_session, "LINGER", 2)
    inbox, turn, turns = Witness(app, results, 3000), redis_session.RedisSession.turn, [0]
    inbox.receive(2000)

    def counting(session: Any, timeout: float | None) -> None:
        turns[0] += 1
        turn(session, timeout)

    monkeypatch.setattr(redis_session.RedisSession, "turn", counting)
    for number in (1, 2):
        app.backend.result_consumer.in_loop(lambda: None)
        wait_until(lambda: turns[0] >= number, "a turn of the loop")  # noqa: B023
    inbox.receive(1000)
    assert inbox.subscriptions == 3000
    turns[0] = 0
    inbox.wait.close()
    wait_until(lambda: results.subscriptions() == 0, "the end of all")
    assert turns[0] < 100


def test_rounds_without_a_pause_leave_what_was_before(app: Celery, results: RedisServer) -> None:
    """Together with what they subscribe to, however soon the next results come."""
    most = 0
    for _ in range(30):
        inbox = Witness(app, results, 20)
        most = max(most, results.subscriptions())
        inbox.receive(20)
        inbox.wait.close()
    assert most <= 100


class Witness(deque[Any]):
    """An inbox that keeps how many were subscribed to when something came last.

    :param count: tasks that it waits for, all of them subscribed to.
    """

    def __init__(self, app: Celery, server: RedisServer, count: int) -> None:
        super().__init__()
        self._server, self._consumer = server, app.backend.result_consumer
        self.subscriptions = 0
        self.wait = InboxWait(self._consumer, inbox=self)
        self._waited_for = [app.AsyncResult(uuid()) for _ in range(count)]
        for result in self._waited_for:
            self.wait.add(app.backend.pending(result))
        wait_until(lambda: server.subscriptions() >= count, "all subscriptions")

    def append(self, arrival: Any, /) -> None:
        self.subscriptions = self._consumer.subscriptions
        super().append(arrival)

    def receive(self, count: int) -> None:
        """Have so many results come, at once."""
        with self._server.probe.pipeline(transaction=True) as together:
            for result in self._waited_for[-count:]:
                key = f"celery-task-meta-{result.id}"
                state = json.dumps({"task_id": result.id, "status": "SUCCESS", "result": 1})
                # Stored as well: it may be subscribed to only now.
                together.set(key, state).publish(key, state)
            together.execute()
        for _ in range(count):
            self.wait.next(time.monotonic() + 20)
        del self._waited_for[-count:]


def test_single_commands_wait_for_a_free_connection(
    make: Callable[..., Celery], results: RedisServer
) -> None:
    app = make(redis_max_connections=3)
    states = crowd(size(300, 50), lambda i: app.AsyncResult(uuid()).state)
    assert set(states) == {"PENDING"}
    assert len(results.clients()) <= 3


def test_who_blocks_keeps_nobody_from_single_commands(
    app: Celery,
    store: Callable[..., str],
    results: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nor does who listens. An application may use the client for that."""
    client, keys = app.backend.client, [uuid() for _ in range(12)]
    outcomes: list[Any] = []
    for key in keys:
        spawn(lambda key: outcomes.append(client.blpop([key], 60)), key)
    wait_until(lambda: len(results.clients(cmd="blpop")) == 12, "all who block")
    app.AsyncResult(store(1)).forget()
    told = [text for text in caplog.messages if "are in use for long" in text]
    assert told[0].startswith("All 10 connections")
    assert len(told) == 1
    for key in keys:
        client.lpush(key, "end")
    wait_until(lambda: len(outcomes) == 12, "the end of all")


def test_a_number_of_connections_that_was_set_is_the_limit(
    make: Callable[..., Celery], results: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make(redis_max_connections=2).backend.client
    outcomes: list[Any] = []
    for _ in range(2):
        spawn(lambda: outcomes.append(client.blpop(["nothing"], 2)))
    wait_until(lambda: len(results.clients(cmd="blpop")) == 2, "all who block")
    assert client.get("nothing") is None
    assert outcomes
    assert len(results.clients()) == 2
    wait_until(lambda: len(outcomes) == 2, "the end of all")


def test_a_client_that_a_test_has_put_there(app: Celery, store: Callable[..., str]) -> None:
    task_id = store(1)
    own, state = app.backend.client, app.backend.encode({"status": "PROGRESS", "result": 2})
    with mock.patch.object(app.backend, "client") as client:
        client.get.return_value = state
        assert app.AsyncResult(task_id).state == "PROGRESS"
    assert app.AsyncResult(task_id).state == "SUCCESS"
    next_own = app.backend.client  # which may have been asked, where the loop was slow to connect
    app.backend.client = client
    assert app.AsyncResult(task_id).info == 2
    del app.backend.client
    assert app.AsyncResult(task_id).get(timeout=20) == 1
    assert app.backend.client not in (own, next_own)
    for each in (own, next_own):
        each.connection_pool.disconnect()


def test_the_pool_is_small_by_default(app: Celery, results: RedisServer) -> None:
    crowd(size(300, 50), lambda i: app.AsyncResult(uuid()).ready())
    assert len(results.clients()) <= 10


def test_idle_connections_for_single_commands_that_were_closed(
    app: Celery, results: RedisServer
) -> None:
    """They are opened anew, and nobody is told."""
    client = app.backend.client
    crowd(3, lambda i: client.blpop(["nothing"], 0.2))
    clients = results.clients()
    assert len(clients) == 3
    for each in clients:
        results.probe.client_kill(each["addr"])
    wait_until(lambda: not results.clients(), "the end of the connections")
    assert crowd(3, lambda i: client.blpop(["nothing"], 0.2)) == [None] * 3


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


def test_members_of_a_group_that_are_stored_elsewhere(
    make: Callable[..., Celery], results: RedisServer
) -> None:
    """As those of a task that has a backend of its own: each is looked for where it is."""
    apps = make(), make(results=results.url(database=5))
    ids = [storing(app)(i) for i, app in enumerate(apps)]

    def members(of: Any = apps) -> list[Any]:
        return [app.AsyncResult(task_id) for app, task_id in zip(of, ids)]

    for timeout in (20, 0):
        assert ResultSet(members()).get(timeout=timeout) == [0, 1]
    assert {state.task_id for state in watch(ResultSet(members()), timeout=20)} == set(ids)
    assert [state.done for state in watch(ResultSet(members()), timeout=0)] == [1, 2]
    ids[1] = uuid()
    with pytest.raises(TimeoutError, match=ids[1]):
        ResultSet(members()).get(timeout=0.3)
    consumer = apps[1].backend.result_consumer
    wait_until(lambda: not len(consumer.table), "the end of the wait")


def test_global_keyprefix(make: Callable[..., Celery]) -> None:
    app = make(result_backend_transport_options={"global_keyprefix": "mine"})
    task_id = uuid()
    app.backend.store_result(task_id, 1, "SUCCESS")
    assert app.AsyncResult(task_id).get(timeout=5) == 1
    assert app.backend.client.keys(f"mine_*{task_id}")


def test_keys_of_the_users_own(
    make: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make()

    def turned(backend: Any, task_id: str, key: str = "") -> bytes:
        return task_id[::-1].encode()

    monkeypatch.setattr(type(app.backend), "get_key_for_task", turned)
    task_id = uuid()
    app.backend.store_result(task_id, 1, "SUCCESS")
    assert app.AsyncResult(task_id).get(timeout=5) == 1
    assert app.backend.client.exists(task_id[::-1])


@pytest.mark.parametrize("task_id", ["", "\ud800"])
def test_what_is_no_task_id_fails_its_waiter_alone(
    app: Celery, store: Callable[..., str], task_id: str
) -> None:
    """As it comes from outside, it must not keep others from their results."""
    bad = app.AsyncResult(task_id)
    for _ in range(2):  # before the loop has connected, and after that
        with pytest.raises(ValueError, match=r"empty|surrogates"):
            bad.get(timeout=20)
        assert app.AsyncResult(store(1)).get(timeout=20) == 1
    consumer = app.backend.result_consumer
    assert (consumer.statistics().pending, consumer.statistics().outages) == (0, 0)


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


@pytest.mark.parametrize("name", ["decode", "decode_result", "meta_from_decoded"])
def test_who_decodes_in_another_way_is_asked(
    name: str, make: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subclass, or a package that wraps what Celery has."""
    decode = getattr(RedisBackend, name)

    def decode_otherwise(self: RedisBackend, content: Any) -> Any:
        meta = decode(self, content)
        return {**meta, "result": meta["result"] * 10}

    monkeypatch.setattr(RedisBackend, name, decode_otherwise)
    app, stored, later = make(), uuid(), uuid()
    app.backend.store_result(stored, 1, "SUCCESS")

    def wait(i: int) -> object:
        if i == 1:
            key = app.backend.get_key_for_task(later)
            wait_until(lambda: app.backend.client.pubsub_numsub(key)[0][1], "the subscription")
            return app.backend.store_result(later, 2, "SUCCESS")
        return app.AsyncResult(later).get(timeout=20)

    assert app.AsyncResult(stored).get(timeout=20) == 10
    assert crowd(2, wait)[0] == 20


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
    ids = [store(i) for i in range(redis_session.BATCH * 3 // 2)]
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
            # As Celery does it: the message, and the same in the store.
            app.backend.client.set(key, garbage)
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
    app.backend.client.delete(app.backend.get_key_for_task(task_id))
    store(2, task_id=task_id)
    assert app.AsyncResult(task_id).get(timeout=5) == 2


def test_garbage_in_a_message_alone(
    app: Celery,
    store: Callable[..., str],
    results: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The store decides: what it has is delivered, and where it has nothing, the wait goes on."""
    first, second = uuid(), uuid()
    calls: list[object] = []
    for task_id in (first, second):
        app.AsyncResult(task_id).then(lambda result: calls.append(result.get()))
    keys = [app.backend.get_key_for_task(task_id) for task_id in (first, second)]
    wait_until(
        lambda: all(n for _, n in app.backend.client.pubsub_numsub(*keys)), "the subscriptions"
    )
    meta = app.backend.encode({"status": "SUCCESS", "result": 1, "task_id": first})
    app.backend.client.set(keys[0], meta)
    for key in keys:
        app.backend.client.publish(key, b"{")
    wait_until(lambda: calls == [1], "the result from the store")
    wait_until(lambda: second in caplog.text, "the log line")
    store(2, task_id=second)
    wait_until(lambda: calls == [1, 2], "the other one")


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


def test_states_do_not_go_backwards_over_two_connections(
    make: Callable[..., Celery], results: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages are late, while the store is read over the other connection."""
    app = make(results=f"{results.url('web')}&protocol=2")
    consumer = app.backend.result_consumer
    task_id = uuid()
    seen: list[Any] = []
    value = spawn_get(app.AsyncResult(task_id), on_message=lambda meta: seen.append(meta["result"]))
    wait_until(lambda: results.subscriptions() == 1, "the subscription")
    session = consumer.session
    receive, late, looks = redis_link.Link.receive, [True], [0]

    def receive_late(link: redis_link.Link, *args: Any) -> Any:
        looks[0] += link is session.lookup
        return None if late and link is session.pubsub else receive(link, *args)

    monkeypatch.setattr(redis_link.Link, "receive", receive_late)
    for step in range(3):
        app.backend.store_result(task_id, step, "PROGRESS")
    before = looks[0]
    consumer.in_loop(lambda: session.look_up(task_id))
    wait_until(lambda: looks[0] > before, "the answer of the store")
    late.clear()
    app.backend.store_result(task_id, "end", "SUCCESS")
    wait_until(lambda: value == ["end"], "the result")
    assert seen == [0, 1, 2, "end"]


def test_keys_that_somebody_makes_otherwise(
    make: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Celery's own class, before anything of ours has looked at that."""

    def sharded(self: Any, task_id: str, key: str = "") -> bytes:
        return b"celery-task-meta-{%s}" % task_id.encode()

    monkeypatch.setattr(BaseKeyValueStoreBackend, "get_key_for_task", sharded)
    app = make()
    task_id = uuid()
    outcome = spawn_get(app.AsyncResult(task_id))
    app.backend.store_result(task_id, 1, "SUCCESS")
    wait_until(lambda: outcome == [1], "the result")


@pytest.mark.parametrize("query", ["", "&protocol=2"])
def test_a_refusal_is_told_at_once(
    make: Callable[..., Celery], own: RedisServer, query: str
) -> None:
    """Also one that is told when the connection is open."""
    own.probe.config_set("requirepass", "secret")
    app = make(results=own.url("web") + query)
    with pytest.raises(redis.exceptions.AuthenticationError):
        app.AsyncResult(uuid()).get(timeout=20)
    own.probe.config_set("requirepass", "")
    task_id = uuid()
    app.backend.store_result(task_id, 1, "SUCCESS")
    assert app.AsyncResult(task_id).get(timeout=20) == 1


@pytest.fixture(params=["hiredis", "redis-py"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads the responses: hiredis, or redis-py where that is not installed."""
    if request.param == "redis-py":
        monkeypatch.setattr(redis_link, "hiredis", None)
        monkeypatch.setattr(redis_consumer, "RESP3", False)


@pytest.mark.usefixtures("parser")
def test_the_next_connection_speaks_as_the_first(
    app: Celery, store: Callable[..., str], results: RedisServer
) -> None:
    """Without hiredis, which alone tells pushes from replies, that is RESP2 each time."""
    consumer = app.backend.result_consumer
    assert app.AsyncResult(store(1)).get(timeout=20) == 1
    app.AsyncResult(uuid()).then(print)
    before = consumer.connections
    for connects in (2, 3):
        (client,) = wait_until(lambda: results.clients(sub="1"), "the subscription")
        # Answered in order: the one before it is looked up by then, as the next connection is
        # another one where this is lost in the middle of a look-up.
        assert app.AsyncResult(store(0)).get(timeout=20) == 0
        results.probe.client_kill(client["addr"])
        wait_until(lambda: consumer.statistics().connects == connects, "the next one")  # noqa: B023
        assert app.AsyncResult(store(connects)).get(timeout=20) == connects
        assert consumer.connections == before


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


class Wire:
    """A link whose other end is the test's."""

    def __init__(self, server: RedisServer, **options: Any) -> None:
        ours, self.theirs = socket.socketpair()
        self.messages: list[tuple[bytes, bytes]] = []
        self.answers: list[Any] = []
        self.link = redis_link.Link(
            redis.ConnectionPool(port=server.port, **redis_link.drainer_params(20, resp3=False)),
            on_message=lambda *message: self.messages.append(message),
            **{"subscribes": False, "resp3": False, **options},
        )
        connection = self.link._connection
        redis_socket(connection).close()
        connection._sock = ours
        connection._parser.on_connect(connection)

    def ask(self, name: str, *keys: bytes) -> None:
        answered = lambda command, reply: self.answers.append(reply)  # noqa: E731
        self.link.send([redis_link.Command(name, dict.fromkeys(keys), answered)])

    def say(self, data: bytes, limit: float = 100) -> list[Any]:
        """Have *data* come, and return the answers by then."""
        self.theirs.send(data)
        self.link.receive(limit, time.monotonic() + 60)
        return self.answers

    def close(self) -> None:
        self.theirs.close()
        self.link.close()


@pytest.fixture
def wire(results: RedisServer, parser: None) -> Iterator[Wire]:
    wire = Wire(results)
    yield wire
    wire.close()


def test_responses_in_pieces_block_nobody(wire: Wire) -> None:
    """One that has arrived in part is left for the next time, whichever parser reads it."""
    wire.ask("MGET", b"a")
    wire.ask("PING")
    assert wire.say(b"*1\r\n$4\r\nha") == []
    assert wire.say(b"lf\r\n+OK\r\n:") == [[b"half"], b"OK"]
    wire.theirs.close()
    with pytest.raises((redis.ConnectionError, OSError)):
        wire.link.receive(100, time.monotonic() + 60)


@pytest.mark.parametrize("bite", [1, 7])
def test_a_turn_may_end_within_what_was_read(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, bite: int
) -> None:
    monkeypatch.setattr(redis_link, "BITE", bite)
    for _ in range(5):
        wire.ask("GET", b"a")
    assert wire.say(b"$5\r\nhello\r\n" * 5, limit=2 * redis_link.LIGHT) == [b"hello"] * 2
    assert wire.link.more
    wire.link.receive(100, time.monotonic() + 60)
    assert wire.answers == [b"hello"] * 5
    assert not wire.link.more


@pytest.mark.parametrize(
    "refusal", [b"-NOPERM no rights here\r\n", b"-ERR unknown command\r\n", b"-CROSSSLOT no\r\n"]
)
def test_an_error_is_the_answer_to_its_command(wire: Wire, refusal: bytes) -> None:
    for key in (b"a", b"b", b"c"):
        wire.ask("GET", key)
    first, second, third = wire.say(b"$1\r\n1\r\n" + refusal + b"$1\r\n3\r\n")
    assert (first, third) == (b"1", b"3")
    assert isinstance(second, redis.exceptions.ResponseError)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"-NOAUTH Authentication required.\r\n", redis.exceptions.AuthenticationError),
        (b"-WRONGPASS invalid\r\n", redis.exceptions.AuthenticationError),
        (b"-LOADING Redis is loading the dataset in memory\r\n", redis.ConnectionError),
        (b"-MASTERDOWN Link with MASTER is down\r\n", redis.ConnectionError),
        (b"?nonsense\r\n", redis.exceptions.InvalidResponse),
    ],
)
def test_what_concerns_the_whole_connection(
    wire: Wire, said: bytes, error: type[Exception]
) -> None:
    wire.ask("GET", b"a")
    with pytest.raises(error):
        wire.say(said)
    assert wire.answers == []


def test_an_answer_that_nobody_asked_for(wire: Wire) -> None:
    wire.ask("GET", b"a")
    with pytest.raises(OutOfStep):
        wire.say(b"$1\r\n1\r\n$1\r\n1\r\n")
    assert wire.answers == [b"1"]


def subscribe(channel: bytes, kind: bytes = b"subscribe") -> bytes:
    return b"*3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n:1\r\n" % (len(kind), kind, len(channel), channel)


def test_a_confirmation_that_fits_no_command(results: RedisServer) -> None:
    for data in (subscribe(b"a", b"unsubscribe"), b"$1\r\n1\r\n", subscribe(b"a") * 3):
        wire = Wire(results, subscribes=True)
        wire.ask("SUBSCRIBE", b"a", b"b")
        with pytest.raises(OutOfStep):
            wire.say(data)
        wire.close()


def test_a_turn_is_bounded(wire: Wire) -> None:
    for _ in range(5):
        wire.ask("PING")
    assert len(wire.say(b"+PONG\r\n" * 5, limit=0.2)) == 2  # each counts for a tenth
    assert wire.link.more
    assert len(wire.say(b"", limit=10)) == 5
    assert not wire.link.more


def test_when_a_connection_is_given_up(wire: Wire) -> None:
    """An answer that is owed counts, and not that bytes come; but a large one takes its time."""
    now = time.monotonic()
    assert not wire.link.check(now, 10)
    assert wire.link.check(now + 11, 10), "nothing was heard, so it is to be asked"
    wire.ask("MGET", b"a")
    assert not wire.link.check(now + 5, 10)
    with pytest.raises(redis.ConnectionError, match="MGET"):
        wire.link.check(time.monotonic() + 11, 10)
    wire.say(b"*1\r\n$100\r\npart")
    assert not wire.link.check(time.monotonic() + 9, 10)
    with pytest.raises(redis.ConnectionError, match="MGET"):
        wire.link.check(time.monotonic() + 11, 10)


def test_messages_are_no_sign_that_answers_come(results: RedisServer) -> None:
    wire = Wire(results, subscribes=True)
    wire.ask("SUBSCRIBE", b"a")
    for _ in range(3):
        wire.say(b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n1\r\n")
    assert wire.messages == [(b"a", b"1")] * 3
    with pytest.raises(redis.ConnectionError, match="SUBSCRIBE"):
        wire.link.check(time.monotonic() + 11, 10)
    wire.close()


def test_the_private_name_of_redis_py_is_still_there(results: RedisServer) -> None:
    connection = redis.ConnectionPool(port=results.port).make_connection()
    connection.connect()
    assert redis_socket(connection).fileno() > 0
    connection.disconnect()
