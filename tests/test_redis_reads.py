"""Single reads (``state``, ``ready()``, ``info``) that go together, and what bounds a burst."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from celery import Celery, uuid
from celery.exceptions import TimeoutError

from celery_green_drain.consumers.redis import consumer as redis_consumer
from celery_green_drain.consumers.redis import session as redis_session

from .conftest import Line
from .green import (
    DRAINER,
    GREEN,
    block,
    crowd,
    in_native_thread,
    size,
    spawn,
    spawn_get,
    wait_until,
)
from .proxy import proxied
from .servers import RedisServer

green_only = pytest.mark.skipif(not GREEN, reason="threads do not begin at once")


@green_only
def test_reads_at_once_are_one_command(
    app: Celery, store: Callable[..., str], results: RedisServer
) -> None:
    assert app.AsyncResult(store(1)).get(timeout=20) == 1
    ids = [store({"step": i}, "PROGRESS") for i in range(500)]
    results.reset_calls()
    infos = crowd(500, lambda i: app.AsyncResult(ids[i]).info)
    assert infos == [{"step": i} for i in range(500)]
    assert results.calls("get") == 0
    assert results.calls("mget") <= 5
    assert len(results.clients()) <= 2  # with the one that has stored


@green_only
def test_the_first_reads_of_a_process_go_together_too(
    app: Celery, results: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_consumer, "PATIENCE", 60)  # else who connects slowly reads alone
    results.reset_calls()
    assert set(crowd(500, lambda i: app.AsyncResult(uuid()).state)) == {"PENDING"}
    assert results.calls("get") + results.calls("mget") <= 5
    assert len(results.clients()) == 1


def test_a_read_sees_what_was_stored_before_it(app: Celery, store: Callable[..., str]) -> None:
    store_and_read_along(app, store, 50)


def store_and_read_along(app: Celery, store: Callable[..., str], steps: int) -> None:
    """One stores and reads, four read along: it never gets the answer to a read under way."""
    task_id = uuid()

    def read_along(i: int) -> None:
        for _ in range(steps):
            app.AsyncResult(task_id).state  # noqa: B018

    def store_and_read(i: int) -> list[object]:
        seen = []
        for step in range(steps):
            store(step, "PROGRESS", task_id)
            seen.append(app.AsyncResult(task_id).info)
        return seen

    outcomes = crowd(5, lambda i: store_and_read(i) if i == 0 else read_along(i))
    assert outcomes[0] == list(range(steps))


def test_an_unpatched_process_without_a_drainer_reads_as_celery_does(
    app: Celery, store: Callable[..., str], results: RedisServer
) -> None:
    task_id = store(1)
    results.reset_calls()
    assert app.AsyncResult(task_id).state == "SUCCESS"
    if DRAINER == "thread":
        assert results.calls("get") == 1
        assert app.backend.result_consumer.statistics().drainer is None


@pytest.mark.skipif(not GREEN, reason="all threads are native here")
def test_a_read_in_a_native_thread(app: Celery, make: Callable[..., Celery]) -> None:
    task_id = uuid()
    make().backend.store_result(task_id, 1, "SUCCESS")
    assert in_native_thread(lambda: app.AsyncResult(task_id).state)() == "SUCCESS"
    assert app.AsyncResult(task_id).get(timeout=20) == 1
    assert in_native_thread(lambda: app.AsyncResult(task_id).state)() == "SUCCESS"


def test_a_read_in_the_drain_loop_does_not_wait_for_itself(
    app: Celery, store: Callable[..., str]
) -> None:
    task_id = store(1)
    assert app.AsyncResult(task_id).get(timeout=20) == 1
    seen: list[object] = []
    app.backend.result_consumer.in_loop(lambda: seen.append(app.AsyncResult(task_id).state))
    wait_until(lambda: seen == ["SUCCESS"], "the read")


@pytest.mark.parametrize("line", ["redis"], indirect=True)
def test_reads_in_an_outage(line: Line) -> None:
    """They end as Celery's end, with its error, and work again afterwards."""
    app, store = line.connect(
        result_backend_transport_options={"retry_policy": {"max_retries": 0}},
        redis_socket_timeout=1,
        redis_retry_on_timeout=False,
        result_drainer_heartbeat=1,
    )
    task_id = store(1)
    assert app.AsyncResult(task_id).state == "SUCCESS"
    assert app.AsyncResult(task_id).get(timeout=20) == 1
    line.proxy.refuse()
    line.proxy.reset()

    def read(i: int) -> object:
        try:
            return app.AsyncResult(uuid()).state
        except Exception as exc:
            return exc

    errors = crowd(5, read)
    assert all(isinstance(error, Exception) for error in errors)
    line.proxy.pass_on()
    wait_until(lambda: read(0) == "PENDING", "reads that work again")
    assert app.AsyncResult(task_id).state == "SUCCESS"


def test_a_read_beside_a_subscription_that_cannot_be_sent(
    make: Callable[..., Celery], store: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With RESP2, where they go over two connections: it does not wait for the heartbeat."""
    app = make(results=f"{make().conf.result_backend}&protocol=2", result_drainer_heartbeat=300)
    task_id = store(1)
    assert app.AsyncResult(task_id).get(timeout=20) == 1
    consumer = app.backend.result_consumer

    def refuse(commands: object) -> None:
        raise ConnectionError("Broken pipe")

    monkeypatch.setattr(consumer.session.pubsub, "send", refuse)
    read, *_ = crowd(2, lambda i: app.AsyncResult(task_id).state if i == 0 else wait(app))
    assert read == "SUCCESS"
    assert consumer.statistics().outages == 1


def test_a_read_while_the_loop_is_stopped(app: Celery, store: Callable[..., str]) -> None:
    """It reads by itself then, and does not wait as for a server that hangs."""
    task_id = store(1)
    consumer = app.backend.result_consumer

    def stop_or_read(i: int) -> object:
        return consumer.stop() if i == 0 else app.AsyncResult(task_id).state

    for _ in range(3):
        assert app.AsyncResult(task_id).get(timeout=20) == 1
        _, state = crowd(2, stop_or_read, 10)
        assert state == "SUCCESS"


@pytest.mark.parametrize("line", ["redis"], indirect=True)
def test_a_read_keeps_the_timeout_of_single_commands(line: Line) -> None:
    app, store = line.connect(redis_socket_timeout=1, result_drainer_heartbeat=60)
    task_id = store(1)
    assert app.AsyncResult(task_id).get(timeout=20) == 1
    line.proxy.swallow()
    begun = time.monotonic()
    with pytest.raises(Exception, match="imeout"):
        app.AsyncResult(uuid()).state  # noqa: B018
    assert time.monotonic() - begun < 60


def wait(app: Celery) -> None:
    with suppress(TimeoutError):
        app.AsyncResult(uuid()).get(timeout=1)


# -- bursts


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """So many ids may be under way."""
    monkeypatch.setattr(redis_session, "CHUNK", 10)
    monkeypatch.setattr(redis_session, "WINDOW", 2)
    return 20


def test_a_bounded_number_is_under_way(
    small: int, app: Celery, store: Callable[..., str], results: RedisServer
) -> None:
    """Of what is subscribed to, looked up and left, at first and after a lost connection."""
    most: list[int] = []
    before = redis_session.RedisSession._submit

    def watched(session: Any, link: Any, commands: Any) -> None:
        before(session, link, commands)
        under_way = [command for link in session.links for command in link.under_way]
        for name in ("SUBSCRIBE", "UNSUBSCRIBE"):
            most.append(sum(len(c.keys) for c in under_way if c.name == name))

    stored = [store(i) for i in range(300)]
    pending = [app.AsyncResult(uuid()) for _ in range(300)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis_session.RedisSession, "_submit", watched)
        calls: list[int] = []
        for task_id in stored:
            app.AsyncResult(task_id).then(lambda result: calls.append(result.get()))
        for result in pending:
            result.then(lambda result: calls.append(result.get()))
        wait_until(lambda: len(calls) == 300, "what is stored")
        wait_until(lambda: results.subscriptions() == 300, "the subscriptions to the rest")
        (client,) = results.clients(sub="300")
        results.probe.client_kill(client["addr"])
        wait_until(
            lambda: results.subscriptions() == 300, "the subscriptions of the next connection"
        )
        for i, result in enumerate(pending):
            store(i, task_id=result.id)
        wait_until(lambda: len(calls) == 600, "all callbacks")
        wait_until(lambda: not results.subscriptions(), "the end of the subscriptions")
    assert sorted(calls) == sorted([*range(300), *range(300)])
    assert 0 < max(most) <= small


def test_answers_larger_than_redis_keeps_for_who_listens(make: Callable[..., Celery]) -> None:
    """A look-up then has a connection of its own, which Redis lets fall behind."""
    server = RedisServer("--client-output-buffer-limit", "pubsub", "1mb", "0", "0")
    try:
        app, worker = make(results=server.url("web")), make(results=server.url("worker"))
        ids = [uuid() for _ in range(200)]
        for i, task_id in enumerate(ids):
            worker.backend.store_result(task_id, [i, "x" * 20_000], "SUCCESS")
        values = crowd(size(200, 50), lambda i: app.AsyncResult(ids[i]).get(timeout=60)[0])
        assert values == list(range(size(200, 50)))
    finally:
        server.end()


def test_an_outage_in_the_middle_of_a_look_up(
    make: Callable[..., Celery], store: Callable[..., str], results: RedisServer
) -> None:
    """Two connections follow, as the answer may have been too large, and one after the next one."""
    with proxied(results.port) as proxy:
        app = make(results=results.url("web", port=proxy.port))
        statistics = app.backend.result_consumer.statistics
        assert app.AsyncResult(store(1)).get(timeout=20) == 1
        first = statistics().connections
        proxy.swallow()
        looks = statistics().lookups
        got = spawn_get(app.AsyncResult(store(2)))
        wait_until(lambda: statistics().lookups > looks, "the look-up")
        proxy.reset()
        proxy.pass_on()
        wait_until(lambda: got == [2], "the result")
        assert statistics().connections == 2
        proxy.reset()
        wait_until(lambda: statistics().connects == 3, "the next connection")
        assert app.AsyncResult(store(3)).get(timeout=20) == 3
        assert statistics().connections == first
        app.backend.result_consumer.stop()


def test_many_notes_keep_nobody_from_running(app: Celery, store: Callable[..., str]) -> None:
    """A wait that begins after a hundred thousand others were dropped begins soon all the same."""
    assert app.AsyncResult(store(1)).get(timeout=20) == 1
    consumer = app.backend.result_consumer
    turns: list[int] = []
    for _ in range(size(100_000, 20_000)):
        consumer.mailbox.post(turns.append, 1)
    behind: list[int] = []
    consumer.in_loop(lambda: behind.append(len(turns)))
    assert app.AsyncResult(store(2)).get(timeout=60) == 2
    assert behind == [size(100_000, 20_000)]


@green_only
@pytest.mark.parametrize("busy", [False, True])
def test_a_flood_of_states_lets_others_run(
    app: Celery,
    store: Callable[..., str],
    results: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    busy: bool,
) -> None:
    """A turn of the loop handles so many messages, and more where others take long."""
    # A machine that does something else would be others that take long, or end a turn early.
    monkeypatch.setattr(redis_session, "SLICE", 60)
    if not busy:
        monkeypatch.setattr(redis_session, "RATE", 0)
    flooded, flood = app.AsyncResult(uuid()), 20_000
    seen: list[object] = []
    waiter = spawn(
        lambda: flooded.get(timeout=60, on_message=lambda meta: seen.append(meta["result"]))
    )
    wait_until(results.subscriptions, "the subscription")
    consumer, handled = app.backend.result_consumer, [0]
    deliver, steps = consumer.session._deliver, [0]
    published: list[bool] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        handled[0] += 1
        return deliver(*args, **kwargs)

    consumer.session._deliver = counted

    def step() -> None:
        before = 0
        while len(seen) <= flood:
            steps.append(handled[0] - before)
            before = handled[0]
            if busy and published:
                block(0.02)
            time.sleep(0.001)  # gevent runs what yields by 0 many times before it looks at sockets

    spawn(step)
    meta = app.backend.encode({"status": "PROGRESS", "result": 1, "task_id": flooded.id})
    with results.probe.pipeline(transaction=False) as pipe:
        for _ in range(flood):
            pipe.publish(app.backend.get_key_for_task(flooded.id), meta)
        pipe.execute()
    published.append(True)
    store(3, task_id=flooded.id)
    wait_until(lambda: len(seen) > flood, "all states", timeout=60)
    handled_at_once = [step for step in steps if step]
    if busy:
        assert max(handled_at_once) > 30 * redis_session.BATCH
    else:
        assert statistics.median(handled_at_once) <= 20 * redis_session.BATCH
    del waiter
