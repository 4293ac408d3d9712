"""Results from a message queue: RabbitMQ, and what it and the network between may do."""

from __future__ import annotations

import gc
import json
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import kombu
import pytest
from celery import Celery, chain, chord, group, uuid
from celery.exceptions import ImproperlyConfigured, TimeoutError
from celery.result import GroupResult
from celery.signals import before_task_publish
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.serialization import register, unregister

from celery_green_drain import DrainerStopped, ResultEvicted
from celery_green_drain.addresses import masked
from celery_green_drain.consumers.rpc.amqp import AmqpSession

from .green import DRAINER, GREEN, crowd, drain_loops, kill, size, spawn, spawn_get, wait_until
from .proxy import Proxy, proxied
from .rabbitmq import RabbitServer
from .servers import Worker

pytestmark = pytest.mark.kinds("rpc, rabbitmq")


@pytest.fixture
def own() -> Iterator[RabbitServer]:
    """A RabbitMQ that the test may kill."""
    server = RabbitServer()
    yield server
    server.end()


@pytest.fixture
def through(
    make: Callable[..., Celery], rabbit: RabbitServer, rabbit_worker: Worker
) -> Iterator[Callable[..., tuple[Celery, Proxy]]]:
    """Make an app whose results pass a proxy, and with *everything* its tasks as well."""
    with ExitStack() as stack:

        def through(
            delay: float = 0, everything: bool = False, **conf: Any
        ) -> tuple[Celery, Proxy]:
            proxy = stack.enter_context(proxied(rabbit.port, delay))
            passing, beside = rabbit.url(proxy.port), rabbit.url()
            app = make(
                broker=passing if everything else beside,
                drained_from=passing,
                results="rpc://",
                **conf,
            )
            return app, proxy

        yield through


def consumer(app: Celery) -> Any:
    return app.backend.result_consumer


# -- the queue


def test_one_queue_whichever_greenlet_sends(app: Celery, rabbit: RabbitServer) -> None:
    sent = crowd(size(500, 50), lambda i: app.tasks["add"].delay(i, 1))
    values = crowd(len(sent), lambda i: sent[-1 - i].get(timeout=60))
    assert values == [i + 1 for i in range(len(sent))][::-1]
    assert consumer(app).statistics().connections == consumer(app).statistics().connects == 1
    assert rabbit.consumers(app.backend.oid) == 1
    assert drain_loops() == 1


def test_requests_in_greenlets_of_their_own(app: Celery, rabbit: RabbitServer) -> None:
    count, at_once = size(2000, 200), size(200, 20)
    queues = rabbit.queues()
    for begin in range(0, count, at_once):
        values = crowd(at_once, lambda i: app.tasks["add"].delay(i, begin).get(timeout=60))  # noqa: B023
        assert values == list(range(begin, begin + at_once))
    assert rabbit.queues() - queues == {app.backend.oid}
    assert rabbit.consumers(app.backend.oid) == 1
    assert consumer(app).statistics().connects == 1
    assert drain_loops() == 1
    assert rabbit.messages(app.backend.oid) == 0


@pytest.mark.skipif(GREEN, reason="green threads do not switch there")
def test_apps_that_threads_use_for_the_first_time_at_once() -> None:
    interval = sys.getswitchinterval()
    for _ in range(10):
        apps = [
            Celery(broker="memory://", backend="rpc://", set_as_current=False) for _ in range(8)
        ]
        for app in apps:
            app.conf.result_drainer = DRAINER
        sys.setswitchinterval(1e-6)
        try:
            crowd(len(apps), lambda i: apps[i].backend)  # noqa: B023
        finally:
            sys.setswitchinterval(interval)
        for app in apps:
            sent = {"reply_to": app.thread_oid, "correlation_id": uuid()}
            before_task_publish.send(sender="add", body=((), {}, {}), properties=sent)
            assert sent["reply_to"] == app.backend.oid


def test_reply_to_of_the_users_is_left_alone(app: Celery, rabbit: RabbitServer) -> None:
    with rabbit.connect() as connection, connection.channel() as channel:
        queue = channel.queue_declare("theirs").queue
        app.tasks["add"].apply_async((1, 2), reply_to=queue)
        wait_until(lambda: rabbit.messages(queue), "the result in the user's queue")
        channel.queue_delete(queue)


def test_a_chain_of_chains_comes_here(app: Celery) -> None:
    """The workers send its later tasks, on behalf of this process."""
    add = app.tasks["add"].s
    result = chain(add(1, 1), chain(add(2), add(3)), group(add(4), chain(add(5), add(6))))()
    assert result.get(timeout=30) == [11, 18]
    linked = add(10)
    linked.freeze()
    app.tasks["add"].apply_async((1, 2), link=linked)
    assert app.AsyncResult(linked.id).get(timeout=30) == 13


def test_the_queue_is_deleted_in_the_end(app: Celery, rabbit: RabbitServer) -> None:
    name = app.backend.oid
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
    assert rabbit.messages(name) == 0
    consumer(app).stop()
    assert rabbit.messages(name) is None
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3  # it is declared again
    assert app.backend.oid == name


def test_a_stop_keeps_the_queue_for_those_who_wait_again(app: Celery, rabbit: RabbitServer) -> None:
    result = app.tasks["nap"].delay(1, "late")
    waiting = spawn_get(result)
    wait_until(lambda: consumer(app).statistics().pending, "the wait")
    consumer(app).stop()
    wait_until(lambda: waiting, "the end of the wait")
    assert isinstance(waiting[0], DrainerStopped)
    wait_until(lambda: rabbit.messages(app.backend.oid), "the result in the queue")
    assert result.get(timeout=20) == "late"


def test_a_forgotten_app_deletes_its_queue(
    make_app_and_forget: Callable[[], str], rabbit: RabbitServer
) -> None:
    name = make_app_and_forget()
    gc.collect()
    wait_until(lambda: rabbit.messages(name) is None, "the end of the queue")
    wait_until(lambda: drain_loops() == 0, "the end of the loop")


@pytest.fixture
def make_app_and_forget(rabbit: RabbitServer, rabbit_worker: Worker) -> Callable[[], str]:
    from .green import DRAINER
    from .tasks import make_app

    def use() -> str:
        app = make_app(rabbit.url(), "rpc://", result_drainer=DRAINER)
        assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
        name: str = app.backend.oid
        app.close()
        return name

    return use


def test_the_queue_expires_with_its_process(
    through: Callable[..., tuple[Celery, Proxy]], rabbit: RabbitServer
) -> None:
    app, proxy = through(result_expires=1)
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
    proxy.refuse()
    wait_until(lambda: app.backend.oid not in rabbit.queues(), "the end of the queue", timeout=60)
    proxy.pass_on()
    # And is made again where the process is back.
    wait_until(lambda: consumer(app).statistics().connects == 2, "the connection")
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3


@pytest.mark.parametrize(
    ("expires", "kept"),
    [
        (60, 60),
        (None, 86400),
        (0, 86400),
        (0.5, 1),
        (timedelta(hours=1), 3600),
        (10**9, 49 * 86400),
    ],
)
def test_how_long_the_queue_is_kept(
    make: Callable[..., Celery], rabbit: RabbitServer, expires: Any, kept: int
) -> None:
    app = make(broker=rabbit.url(), results="rpc://", result_expires=expires)
    queue = app.backend.binding
    assert (queue.durable, queue.auto_delete, queue.expires) == (True, False, kept)


# -- what has come


def test_state_is_what_has_come(app: Celery) -> None:
    """Nobody asks the broker."""
    task_id = app.tasks["progress"].delay(20).id
    wait_until(lambda: app.AsyncResult(task_id).state == "PROGRESS", "a state")
    assert "step" in app.AsyncResult(task_id).info
    wait_until(lambda: app.AsyncResult(task_id).ready(), "the end")
    # Also for who asks once more.
    assert [app.AsyncResult(task_id).get(timeout=5) for _ in range(3)] == [20] * 3


def test_what_one_greenlet_has_got_another_gets_as_well(app: Celery) -> None:
    task_id = app.tasks["add"].delay(1, 2).id
    assert app.AsyncResult(task_id).get(timeout=20) == 3
    assert app.AsyncResult(task_id).get(timeout=20) == 3
    assert app.AsyncResult(task_id).state == "SUCCESS"
    called: list[object] = []
    app.AsyncResult(task_id).then(called.append)
    wait_until(lambda: called, "the callback")


def test_results_that_nobody_reads(
    make: Callable[..., Celery], rabbit: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    count, kept = 8_000, 2_000
    app = make(broker=rabbit.url(), results="rpc://", result_drainer_buffer=kept)
    publish_results(app, rabbit, [f"task {i}" for i in range(count)])
    evicted = count - kept
    wait_until(lambda: consumer(app).statistics().evicted == evicted, "the last one", timeout=120)
    assert len(consumer(app).buffer) == kept
    assert "that nobody has asked for" in caplog.text
    assert len([message for message in caplog.messages if "Dropped" in message]) < 10
    assert app.AsyncResult(f"task {evicted}").get(timeout=20) == evicted
    for ask in (
        lambda: app.AsyncResult("task 0").get(timeout=20),
        lambda: app.AsyncResult(f"task {evicted - 1}").get(timeout=20),
        lambda: app.AsyncResult("task 0").state,
        lambda: app.AsyncResult("task 0").get(timeout=0),
    ):
        with pytest.raises(ResultEvicted, match="result_drainer_buffer"):
            ask()
    failed: list[BaseException] = []
    app.AsyncResult("task 1").then(print, failed.append)
    wait_until(lambda: failed, "on_error")
    assert isinstance(failed[0], ResultEvicted)


def publish_results(app: Celery, rabbit: RabbitServer, ids: list[str]) -> None:
    """Send results as a worker does: 0, 1, 2, …"""
    with app.producer_or_acquire() as producer:
        app.backend.on_task_call(producer, uuid())
    results = (
        (json.dumps({"task_id": task_id, "status": "SUCCESS", "result": i}), task_id)
        for i, task_id in enumerate(ids)
    )
    rabbit.publish(app.backend.oid, results)


def test_a_small_buffer(make: Callable[..., Celery], rabbit: RabbitServer) -> None:
    app = make(broker=rabbit.url(), results="rpc://", result_drainer_buffer=2)
    arrived = consumer(app).buffer
    publish_results(app, rabbit, ["a", "b"])
    wait_until(lambda: len(arrived) == 2, "two results")
    assert app.AsyncResult("a").get(timeout=20) == 0  # it is not what is dropped next
    publish_results(app, rabbit, ["c", "d"])
    wait_until(lambda: consumer(app).statistics().evicted == 1, "the eviction")
    with pytest.raises(ResultEvicted):
        app.AsyncResult("b").get(timeout=20)
    assert app.AsyncResult("a").state == "SUCCESS"
    app.AsyncResult("c").forget()
    assert app.AsyncResult("c").state == "PENDING"


def test_what_was_seen_is_kept_until_it_is_got(
    make: Callable[..., Celery], rabbit: RabbitServer
) -> None:
    app = make(broker=rabbit.url(), results="rpc://", result_drainer_buffer=2)
    publish_results(app, rabbit, ["a", "b"])
    wait_until(app.AsyncResult("a").ready, "the result")
    wait_until(app.AsyncResult("b").ready, "the result")
    assert app.AsyncResult("a").get(timeout=20) == 0
    publish_results(app, rabbit, ["c", "d", "e"])
    wait_until(lambda: consumer(app).statistics().evicted == 1, "what nobody has seen")
    for seen_and_unseen in ("b", "c"):
        with pytest.raises(ResultEvicted):
            app.AsyncResult(seen_and_unseen).get(timeout=20)


def test_what_somebody_holds_is_dropped_last(
    make: Callable[..., Celery], rabbit: RabbitServer, rabbit_worker: Worker
) -> None:
    app = make(broker=rabbit.url(), results="rpc://", result_drainer_buffer=5)
    buffer = consumer(app).buffer
    add = app.tasks["add"]
    held = [add.delay(i, 1) for i in range(4)]
    wait_until(lambda: len(buffer) == 4, "the results that are held")
    for number in range(8):
        add.delay(number, 2)  # and nobody holds it
    wait_until(lambda: consumer(app).statistics().evicted == 7, "the evictions")
    assert [result.get(timeout=20) for result in held[:2]] == [1, 2]
    last = held[3]
    let_go = held[2].id
    del held[:]
    gc.collect()
    more = [add.delay(number, 3) for number in range(5)]
    wait_until(lambda: all(buffer.get(result.id) for result in more[1:]), "those that came last")
    with pytest.raises(ResultEvicted):
        app.AsyncResult(let_go).get(timeout=20)
    with pytest.raises(ResultEvicted):  # all are held now, and it is the oldest
        last.get(timeout=20)


def test_an_id_that_is_used_again(app: Celery) -> None:
    add, nap = app.tasks["add"], app.tasks["nap"]
    assert add.apply_async((1, 1), task_id="again").get(timeout=20) == 2
    assert nap.apply_async((0.2, "second"), task_id="again").get(timeout=20) == "second"
    unread = add.apply_async((2, 2), task_id="again")
    wait_until(unread.ready, "a result that nobody gets")
    called: list[Any] = []
    third = nap.apply_async((0.2, "third"), task_id="again")
    third.then(lambda result: called.append(result.get()))
    wait_until(lambda: called, "the callback")
    assert called == ["third"]
    # A task that a worker sends on behalf of this process.
    linked = add.s(10).set(task_id="again")
    result = chain(nap.s(0.2, 1), linked)()
    assert app.AsyncResult("again").state == "PENDING"
    assert result.get(timeout=20) == 11


def test_an_evicted_id_that_is_used_again(
    make: Callable[..., Celery], rabbit: RabbitServer, rabbit_worker: Worker
) -> None:
    app = make(broker=rabbit.url(), results="rpc://", result_drainer_buffer=1)
    publish_results(app, rabbit, ["a", "b"])
    wait_until(lambda: consumer(app).statistics().evicted == 1, "the eviction")
    with pytest.raises(ResultEvicted):
        app.AsyncResult("a").get(timeout=20)
    again = app.tasks["add"].apply_async((1, 1), task_id="a")
    assert again.get(timeout=20) == 2


def test_a_state_that_is_not_the_last_is_no_loss(
    make: Callable[..., Celery], rabbit: RabbitServer, store: Callable[..., str], app: Celery
) -> None:
    app.backend.result_consumer.buffer.limit = 2
    running = store({"step": 1}, "PROGRESS")
    wait_until(lambda: app.AsyncResult(running).state == "PROGRESS", "the state")
    with pytest.raises(TimeoutError):
        app.AsyncResult(running).get(timeout=0.1)
    for i in range(4):
        assert app.AsyncResult(store(i)).get(timeout=20) == i
    assert app.AsyncResult(running).state in ("PROGRESS", "PENDING")
    store(7, task_id=running)
    assert app.AsyncResult(running).get(timeout=20) == 7


def test_the_oldest_goes_first(app: Celery, store: Callable[..., str]) -> None:
    """By its latest state: a task that began long ago may have ended just now."""
    buffer = consumer(app).buffer
    buffer.limit = 2
    store({"step": 1}, "PROGRESS", "a")
    wait_until(lambda: app.AsyncResult("a").state == "PROGRESS", "the state")
    store(1, task_id="b")
    store(2, task_id="a")
    store(3, task_id="c")
    wait_until(lambda: buffer.get("c"), "the last one")
    assert app.AsyncResult("a").get(timeout=20) == 2
    with pytest.raises(ResultEvicted):
        app.AsyncResult("b").get(timeout=20)


@pytest.mark.parametrize("value", [0, -1, 1.5, "10", True, None])
def test_impossible_buffers(make: Callable[..., Celery], value: object) -> None:
    with pytest.raises(ImproperlyConfigured, match="result_drainer_buffer"):
        _ = make(results="rpc://", result_drainer_buffer=value).backend


def test_a_state_that_was_overtaken(app: Celery, store: Callable[..., str]) -> None:
    task_id = store(5)
    wait_until(app.AsyncResult(task_id).ready, "the result")
    store({"step": 1}, "PROGRESS", task_id)
    marker = store(6)
    wait_until(app.AsyncResult(marker).ready, "what was sent after it")
    assert app.AsyncResult(task_id).state == "SUCCESS"


def test_states_that_the_broker_sends_again(
    app: Celery, store: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection breaks before it has acknowledged what it has handed over."""
    monkeypatch.setattr(AmqpSession, "_acknowledge", lambda session: None)
    task_id = uuid()
    seen: list[Any] = []
    value = spawn_get(app.AsyncResult(task_id), on_message=lambda meta: seen.append(meta["result"]))
    wait_until(lambda: consumer(app).statistics().pending == 1, "the wait")
    for step in range(3):
        store(step, "PROGRESS", task_id)
    wait_until(lambda: len(seen) == 3, "the states")
    monkeypatch.undo()
    consumer(app).in_loop(lambda: consumer(app).session._socket.shutdown(socket.SHUT_RDWR))
    wait_until(lambda: consumer(app).statistics().connects == 2, "another connection")
    store(3, "PROGRESS", task_id)
    store("end", task_id=task_id)
    wait_until(lambda: value == ["end"], "the result")
    assert seen == [0, 1, 2, 3, "end"]


def test_a_state_for_another_task_than_the_sender(app: Celery, store: Callable[..., str]) -> None:
    """``update_state(task_id=...)``: what the message says counts, not what its properties say."""
    store()  # the queue is there
    other = uuid()
    result = app.AsyncResult(other)
    request = app.tasks["add"].request.__class__(
        reply_to=app.backend.oid, correlation_id="the sender"
    )
    app.backend.store_result(other, 7, "SUCCESS", request=request)
    assert result.get(timeout=20) == 7


def test_a_serializer_of_the_users_own_gets_text(
    make: Callable[..., Celery], rabbit: RabbitServer, request: pytest.FixtureRequest
) -> None:
    """As py-amqp gives it, where the message names its charset."""
    kind = "application/x-tagged"
    register("tagged", json.dumps, lambda text: json.loads(text.removeprefix("v1:")), kind)
    request.addfinalizer(lambda: unregister("tagged"))
    app = make(broker=rabbit.url(), results="rpc://", result_accept_content=["tagged"])
    first, late = app.AsyncResult(uuid()), app.AsyncResult(uuid())
    outcome = spawn_get(first)
    wait_until(lambda: consumer(app).statistics().connections == 1, "the queue")
    for result in (first, late):
        text = "v1:" + json.dumps({"task_id": result.id, "status": "SUCCESS", "result": "é"})
        rabbit.publish(
            app.backend.oid,
            [(text.encode("utf-16"), result.id)],
            content_type=kind,
            content_encoding="utf-16",
        )
    wait_until(lambda: outcome == ["é"], "the result that is waited for")
    assert late.get(timeout=20) == "é"


GARBAGE = {
    "no json": (b"{", {}, DecodeError),
    "no state": (b"[1, 2]", {}, DecodeError),
    "no task": (b'{"status": "SUCCESS"}', {}, DecodeError),
    "no task's id": (b'{"task_id": ["x"], "status": "SUCCESS"}', {}, DecodeError),
    "pickle": (b"cos", {"content_type": "application/x-python-serialize"}, ContentDisallowed),
    "compression": (b"x", {"application_headers": {"compression": "nonsense"}}, Exception),
}


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("waiting", [True, False], ids=["waited for", "unasked"])
def test_what_cannot_be_read_fails_its_waiter_alone(
    app: Celery,
    rabbit: RabbitServer,
    store: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
    garbage: str,
    waiting: bool,
) -> None:
    body, properties, error = GARBAGE[garbage]
    store()
    bad, good = app.AsyncResult(uuid()), app.AsyncResult(uuid())
    outcomes = [spawn_get(bad), spawn_get(good)] if waiting else []
    if waiting:
        wait_until(lambda: consumer(app).statistics().pending == 2, "the waits")
    rabbit.publish(app.backend.oid, [(body, bad.id)], **properties)
    rabbit.publish(app.backend.oid, [(body, None)], **properties)  # nobody's
    wait_until(lambda: consumer(app).statistics().unreadable >= 2, "the garbage")
    if not waiting:
        outcomes = [spawn_get(bad), spawn_get(good)]
    wait_until(lambda: outcomes[0], "the error")
    assert isinstance(outcomes[0][0], error)
    store(1, task_id=good.id)
    wait_until(lambda: outcomes[1] == [1], "the other result")
    assert f"The result of task {bad.id!r} cannot be read" in caplog.text
    assert consumer(app).statistics().connects == 1


def test_a_large_result(app: Celery, store: Callable[..., str]) -> None:
    value = "x" * 20_000_000
    task_id = store(value)
    wait_until(app.AsyncResult(task_id).ready, "the result")
    assert app.AsyncResult(task_id).get(timeout=60) == value
    assert app.AsyncResult(task_id).get(timeout=60) == value  # whoever asks once more


# -- many


def test_ten_thousand_callbacks(app: Celery, rabbit: RabbitServer) -> None:
    count = size(10_000, 500)
    ids = [uuid() for _ in range(count)]
    calls: list[int] = []
    for task_id in ids:
        app.AsyncResult(task_id).then(lambda result: calls.append(result.get()))
    publish_results(app, rabbit, ids)
    wait_until(lambda: len(calls) >= count, "all callbacks", timeout=60)
    assert sorted(calls) == list(range(count))
    assert consumer(app).statistics().pending == 0


def test_ten_thousand_waiters(app: Celery, rabbit: RabbitServer) -> None:
    count = size(10_000, 300)
    ids = [uuid() for _ in range(count)]
    published: list[bool] = []

    def publish() -> None:
        wait_until(lambda: consumer(app).statistics().pending == count, "the waits", timeout=60)
        publish_results(app, rabbit, ids)
        published.append(True)

    publisher = spawn(publish)
    assert crowd(count, lambda i: app.AsyncResult(ids[i]).get(timeout=100)) == list(range(count))
    wait_until(lambda: published, "the publisher's end, before the queue goes")
    del publisher


@pytest.mark.skipif(not GREEN, reason="a thread cannot be killed")
def test_a_killed_waiter_leaves_nothing(app: Celery) -> None:
    result = app.tasks["nap"].delay(0.5, "fine")
    other = spawn_get(app.AsyncResult(result.id))
    waiter = spawn(lambda: result.get(timeout=60))
    wait_until(lambda: consumer(app).statistics().pending == 1, "the waits")
    kill(waiter)
    wait_until(lambda: other == ["fine"], "the other's result")
    assert consumer(app).statistics().pending == 0


# -- faults


def test_a_restarted_broker(
    make: Callable[..., Celery], own: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed under waiters; what was persistent is there afterwards."""
    count = size(200, 50)
    options = {"confirm_publish": True}  # what the broker has taken it has on disk
    app = make(broker=own.url(), results="rpc://", broker_transport_options=options)
    # Celery's thread pool keeps tasks to itself after an outage of RabbitMQ.
    worker = Worker(own.url(), "rpc://", persistent=True, pool="prefork")
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
    nap = app.tasks["nap"]
    done = [nap.delay(0, i) for i in range(count)]
    slow = [nap.delay(3, i) for i in range(8)]
    outcomes = [spawn_get(result, timeout=100) for result in done + slow]
    called: list[int] = []
    later = nap.delay(1, "called")
    later.then(lambda result: called.append(result.get()))
    own.kill()
    own.start()
    wait_until(lambda: all(outcomes) and called, "all results", timeout=105)
    assert outcomes == [[i] for i in range(count)] + [[i] for i in range(8)]
    assert called == ["called"]
    assert len([m for m in caplog.messages if m.startswith("Lost the connection")]) == 1
    assert nap.delay(0, "afterwards").get(timeout=30) == "afterwards"
    worker.end()


def test_nothing_goes_to_a_lost_connection_that_the_broker_takes_for_alive(
    make: Callable[..., Celery], rabbit: RabbitServer
) -> None:
    with proxied(rabbit.port) as proxy:
        conf = {"drained_from": rabbit.url(proxy.port), "result_drainer_heartbeat": 20}
        app = make(broker=rabbit.url(), results="rpc://", **conf)
        app.AsyncResult(uuid()).then(print)  # so that the queue is kept
        queue = app.backend.oid
        wait_until(lambda: consumer(app).statistics().connections, "the first connection")
        proxy.swallow()
        consumer(app).stop()  # its farewell does not arrive
        proxy.pass_on()
        task_id, seen = uuid(), []  # type: ignore[var-annotated]
        got = spawn_get(app.AsyncResult(task_id), timeout=30, on_message=seen.append)
        wait_until(lambda: consumer(app).statistics().pending == 2, "the wait")
        wait_until(lambda: rabbit.consumers(queue) == 2, "the second connection")
        steps = [{"status": "PROGRESS", "result": number} for number in range(10)]
        states = [*steps, {"status": "SUCCESS", "result": "end"}]
        bodies = [(json.dumps({"task_id": task_id, **state}), task_id) for state in states]
        rabbit.publish(queue, bodies)
        wait_until(lambda: got == ["end"], "the result")
        assert [state["result"] for state in seen] == [*range(10), "end"]
        assert rabbit.consumers(queue) == 2


def test_a_broker_that_is_not_there_yet(
    through: Callable[..., tuple[Celery, Proxy]], caplog: pytest.LogCaptureFixture
) -> None:
    app, proxy = through()
    proxy.refuse()
    result = app.tasks["add"].delay(1, 2)
    outcome = spawn_get(result)
    wait_until(lambda: "Lost the connection" in caplog.text, "an attempt that was refused")
    proxy.pass_on()
    wait_until(lambda: outcome == [3], "the result")


def test_tls(
    make: Callable[..., Celery],
    rabbit: RabbitServer,
    rabbit_worker: Worker,
    tls: Callable[[int], AbstractContextManager[tuple[int, Path]]],
) -> None:
    with tls(rabbit.port) as (port, authority):
        app = make(
            broker=f"amqps://guest:guest@localhost:{port}//",
            results="rpc://",
            broker_use_ssl={"ca_certs": str(authority), "cert_reqs": ssl.CERT_REQUIRED},
        )
        large = "x" * 100_000  # more than TLS holds in one record
        sent = [app.tasks["nap"].delay(0, large) for _ in range(50)]
        assert all(result.get(timeout=60) == large for result in sent)
        assert consumer(app).statistics().connects == 1
        consumer(app).stop()


def test_what_has_come_is_there_while_the_broker_is_not(
    through: Callable[..., tuple[Celery, Proxy]], caplog: pytest.LogCaptureFixture
) -> None:
    app, proxy = through()
    task_id = app.tasks["add"].delay(1, 2).id
    wait_until(app.AsyncResult(task_id).ready, "the result")
    proxy.refuse()
    wait_until(lambda: "Lost the connection" in caplog.text, "the notice")
    called: list[int] = []
    app.AsyncResult(task_id).then(lambda result: called.append(result.get()))
    assert app.AsyncResult(task_id).get(timeout=5) == 3
    wait_until(lambda: called == [3], "the callback")
    assert consumer(app).connections == 0


def test_the_senders_connection_breaks(
    through: Callable[..., tuple[Celery, Proxy]], caplog: pytest.LogCaptureFixture
) -> None:
    app, proxy = through(everything=True)
    app.tasks["ignored"].delay()  # opens it
    proxy.reset()
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
    proxy.reset()
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3


def test_a_backlog_leaves_others_their_turn(app: Celery, rabbit: RabbitServer) -> None:
    """Messages so large that few of them fill a read."""
    count = size(10_000, 10_000)
    consumer(app).stop()
    app.backend.binding(app.pool.acquire().default_channel).declare()
    body = json.dumps({"task_id": "{}", "status": "SUCCESS", "result": "x" * 4000})
    ids = [uuid() for _ in range(count)]
    rabbit.publish(app.backend.oid, ((body.replace("{}", i), i) for i in ids))
    ticks: list[float] = []
    consumer(app).start()
    while not app.AsyncResult(ids[-1]).ready():
        ticks.append(time.monotonic())
        time.sleep(0)
    assert len(ticks) > 20


@pytest.mark.parametrize("options", [{"broker_connection_timeout": None}, {"query": "heartbeat=0"}])
def test_odd_options(
    make: Callable[..., Celery], rabbit: RabbitServer, rabbit_worker: Worker, options: Any
) -> None:
    url = rabbit.url() + ("?heartbeat=0" if options.pop("query", None) else "")
    app = make(broker=url, results="rpc://", **options)
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
    assert consumer(app).statistics().connects == 1
    assert consumer(app).session._amqp.heartbeat == 10


def test_an_impossible_expiry(make: Callable[..., Celery]) -> None:
    with pytest.raises(ImproperlyConfigured, match="result_expires = '3600'"):
        _ = make(results="rpc://", result_expires="3600").backend


def test_a_prefork_worker_that_shares_the_configuration(
    rabbit: RabbitServer, make: Callable[..., Celery]
) -> None:
    """Its children end often, and leave no queues behind."""
    before = rabbit.queues()
    app = make(broker=rabbit.url(), results="rpc://", task_default_queue="shared")
    options = {"queue": "shared", "TESTS_QUEUE": "shared", "drainer": "thread"}
    worker = Worker(rabbit.url(), "rpc://", pool="prefork", **options)
    add = app.tasks["add"].s
    assert [chain(add(i, 1), add(2))().get(timeout=30) for i in range(10)] == list(range(3, 13))
    new = {name for name in rabbit.queues() - before if "@" not in name}  # those are the workers'
    assert new == {"shared", app.backend.oid}
    worker.end()


def test_a_reset_connection(through: Callable[..., tuple[Celery, Proxy]]) -> None:
    app, proxy = through()
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
    for round_ in range(3):
        outcomes = [spawn_get(app.tasks["nap"].delay(0.3, i)) for i in range(20)]
        proxy.reset()
        wait_until(lambda: outcomes == [[i] for i in range(20)], f"round {round_}")  # noqa: B023
    assert consumer(app).statistics().connects == 4


def test_a_healthy_idle_connection_is_kept(through: Callable[..., tuple[Celery, Proxy]]) -> None:
    app, _ = through(result_drainer_heartbeat=1)
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
    time.sleep(4)  # four heartbeats, without a message
    assert consumer(app).statistics().connects == 1
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
    assert consumer(app).statistics().connects == 1


def test_a_long_way(through: Callable[..., tuple[Celery, Proxy]]) -> None:
    """150 ms each way, from the first wait on, which many greenlets begin at once."""
    app, _ = through(delay=0.15, everything=True)
    add = app.tasks["add"]
    assert crowd(20, lambda i: add.delay(i, 1).get(timeout=60)) == [i + 1 for i in range(20)]
    called: list[int] = []
    add.delay(1, 2).then(lambda result: called.append(result.get()))
    wait_until(lambda: called == [3], "the callback")
    assert group(add.s(i, i) for i in range(3))().get(timeout=60) == [0, 2, 4]
    assert consumer(app).statistics().connects == 1


def test_a_trickle_blocks_nobody(through: Callable[..., tuple[Celery, Proxy]]) -> None:
    """Half a frame has come, for a while."""
    app, proxy = through()
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
    proxy.trickle()
    outcome = spawn_get(app.tasks["nap"].delay(0, "x" * 1000))
    began, busy = time.monotonic(), time.process_time()
    wait_until(lambda: outcome, "the result")
    assert outcome == ["x" * 1000]
    assert time.process_time() - busy < 0.7 * (time.monotonic() - began)  # it does not spin


def test_tls_holds_nothing_back(
    make: Callable[..., Celery],
    rabbit: RabbitServer,
    tls: Callable[[int], AbstractContextManager[tuple[int, Path]]],
) -> None:
    with tls(rabbit.port) as (port, authority):
        app = make(
            broker=f"amqps://guest:guest@localhost:{port}//",
            results="rpc://",
            broker_use_ssl={"ca_certs": str(authority), "server_hostname": "localhost"},
        )
        # It is there before the connection, and comes in one piece with what the broker says to its
        # opening, so that no socket is ready afterwards until the next heartbeat.
        with kombu.Connection(rabbit.url()) as beside:
            app.backend.binding(beside.default_channel).declare()
        early = json.dumps({"task_id": "early", "status": "SUCCESS", "result": 1})
        rabbit.publish(app.backend.oid, [(early, "early")])
        assert app.AsyncResult("early").get(timeout=3) == 1
        # Each is larger than what TLS holds in one record, so that reads end in the middle.
        ids = [uuid() for _ in range(50)]
        for task_id in ids:
            body = json.dumps({"task_id": task_id, "status": "SUCCESS", "result": "x" * 100_000})
            rabbit.publish(app.backend.oid, [(body, task_id)])
        called: list[int] = []
        for task_id in ids:
            app.AsyncResult(task_id).then(lambda result: called.append(len(result.get())))
        wait_until(lambda: called == [100_000] * 50, "all callbacks")
        consumer(app).stop()


def test_failover(make: Callable[..., Celery], rabbit: RabbitServer, rabbit_worker: Worker) -> None:
    with proxied(rabbit.port) as first, proxied(rabbit.port) as second:
        urls = f"{rabbit.url(first.port)};{rabbit.url(second.port)}"
        app = make(broker=rabbit.url(), drained_from=urls, results="rpc://")
        assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
        for down, up in ((first, second), (second, first)):
            up.pass_on()
            down.refuse()
            assert app.tasks["add"].delay(1, 2).get(timeout=30) == 3


def test_a_deleted_queue_is_made_again(app: Celery, rabbit: RabbitServer) -> None:
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
    with rabbit.connect() as connection, connection.channel() as channel:
        channel.queue_delete(app.backend.oid)
    wait_until(lambda: consumer(app).statistics().connects == 2, "the next connection")
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3


def comes_after_all(app: Celery, rabbit: RabbitServer, got: list[Any]) -> None:
    wait_until(lambda: consumer(app).connections, "a connection")
    publish_results(app, rabbit, ["limited"])
    wait_until(lambda: got == [0], "the result")


def last_error(app: Celery) -> str:
    return consumer(app).statistics().last_error or ""


def test_a_limit_of_connections_is_waited_out(
    make: Callable[..., Celery], rabbit: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    app = make(broker=rabbit.url(), results="rpc://")
    rabbit.control("set_vhost_limits", "-p", "/", '{"max-connections": 0}')
    try:
        got = spawn_get(app.AsyncResult("limited"))
        wait_until(lambda: "Lost the connection" in caplog.text, "a refused attempt")
        assert got == []
        assert "limit" in caplog.text
    finally:
        rabbit.control("clear_vhost_limits", "-p", "/")
    comes_after_all(app, rabbit, got)


def test_a_limit_of_channels_is_waited_out(
    through: Callable[..., tuple[Celery, Proxy]],
    rabbit: RabbitServer,
) -> None:
    app, proxy = through()
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
    rabbit.control("set_user_limits", "guest", '{"max-channels": 1}')
    try:
        got = spawn_get(app.AsyncResult("limited"))
        proxy.reset()
        wait_until(lambda: "limit of (1)" in last_error(app), "a refused attempt")
        assert got == []
    finally:
        rabbit.control("clear_user_limits", "guest", "max-channels")
    comes_after_all(app, rabbit, got)


def test_a_limit_of_queues_is_no_reason_for_another_queue(
    through: Callable[..., tuple[Celery, Proxy]],
    rabbit: RabbitServer,
) -> None:
    app, proxy = through()
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
    name = consumer(app).queue_name
    proxy.refuse()
    with rabbit.connect() as connection, connection.channel() as channel:
        channel.queue_delete(name)
        rabbit.control("set_vhost_limits", "-p", "/", '{"max-queues": 1}')
        try:
            proxy.pass_on()
            wait_until(lambda: "queue limit" in last_error(app), "a refused attempt")
        finally:
            rabbit.control("clear_vhost_limits", "-p", "/")
    wait_until(lambda: consumer(app).connections, "the connection")
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
    assert consumer(app).queue_name == name


@pytest.mark.skipif(not GREEN, reason="a thread cannot be killed")
def test_who_waits_is_told_where_the_loop_is_killed_in_its_farewell(app: Celery) -> None:
    from greenlet import GreenletExit

    def die(delete: bool) -> None:
        raise GreenletExit

    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
    outcome = spawn_get(app.AsyncResult(uuid()))
    wait_until(lambda: consumer(app).statistics().pending, "the wait")
    consumer(app).session.leave = die
    consumer(app).stop()
    wait_until(lambda: outcome, "the end of the wait")
    assert isinstance(outcome[0], DrainerStopped)
    assert consumer(app).session is None
    assert app.tasks["add"].delay(1, 2).get(timeout=5) == 3


def test_what_is_here_is_had_after_the_drainer_was_stopped(app: Celery) -> None:
    result = app.tasks["add"].delay(1, 2)
    wait_until(result.ready, "the result")
    consumer(app).stop()
    again = [app.AsyncResult(result.id).get(timeout=5) for _ in range(10)]
    assert again == [3] * 10
    assert len(consumer(app).mailbox) == 0  # where nobody reads it


def test_a_queue_that_cannot_be_declared_again_is_replaced(
    through: Callable[..., tuple[Celery, Proxy]],
    rabbit: RabbitServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As of a node that is away for good, or where queues are to be of another kind by now."""
    app, proxy = through()
    add = app.tasks["add"]
    assert add.delay(1, 2).get(timeout=20) == 3
    name = consumer(app).queue_name
    proxy.refuse()  # so that the drainer does not declare it first
    rabbit.control("close_all_connections", "a test")
    with rabbit.connect() as connection, connection.channel() as channel:
        channel.queue_delete(name)
        channel.queue_declare(name, durable=True, auto_delete=False)  # with no expiry
    proxy.pass_on()
    wait_until(lambda: consumer(app).queue_name != name, "another queue")
    assert "there is another one from now on" in caplog.text
    assert [add.delay(i, 2).get(timeout=20) for i in range(3)] == [2, 3, 4]


def test_a_task_that_is_sent_in_an_outage_has_a_queue_for_its_result(
    make: Callable[..., Celery], rabbit: RabbitServer, rabbit_worker: Worker
) -> None:
    """As where a broker comes back with nothing, and the sender's connection has not noticed."""
    with proxied(rabbit.port) as senders, proxied(rabbit.port) as drainers:
        app = make(
            broker=rabbit.url(senders.port),
            drained_from=rabbit.url(drainers.port),
            results="rpc://",
        )
        add, queue = app.tasks["add"], app.backend.oid
        assert add.delay(1, 2).get(timeout=20) == 3
        drainers.refuse()
        drainers.reset()
        wait_until(lambda: consumer(app).connections == 0, "the outage")
        with rabbit.connect() as connection, connection.channel() as channel:
            channel.queue_delete(queue)
        senders.reset()
        result = add.delay(3, 4)
        wait_until(lambda: rabbit.messages(queue), "the result")
        drainers.pass_on()
        assert result.get(timeout=20) == 7


def test_what_the_broker_says_of_another_task_does_not_concern_the_queue(
    through: Callable[..., tuple[Celery, Proxy]],
) -> None:
    """It says so late, so that whoever sends next gets to hear of it."""
    app, proxy = through()
    add, queue = app.tasks["add"], app.backend.oid
    assert add.delay(1, 2).get(timeout=20) == 3
    proxy.refuse()
    proxy.reset()
    wait_until(lambda: consumer(app).connections == 0, "the outage")
    app.tasks["ignored"].apply_async(exchange="nowhere", routing_key="nobody")
    result = add.delay(3, 4)
    proxy.pass_on()
    assert result.get(timeout=20) == 7
    assert app.backend.oid == queue


def test_results_come_from_where_tasks_are_sent_to(
    make: Callable[..., Celery], rabbit: RabbitServer, rabbit_worker: Worker
) -> None:
    nowhere = rabbit.url().replace("guest:guest", "guest:wrong")
    app = make(broker=nowhere, broker_write_url=rabbit.url(), results="rpc://")
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
    assert consumer(app).address == f"rpc over {masked(rabbit.url())}"


def test_a_name_with_a_limit_in_it_is_a_refusal(
    make: Callable[..., Celery], rabbit: RabbitServer
) -> None:
    app = make(broker=rabbit.url(), drained_from=f"{rabbit.url()[:-1]}limits", results="rpc://")
    with pytest.raises(Exception, match="vhost limits not found"):
        app.AsyncResult(uuid()).get(timeout=20)


def test_a_refusal_is_told_at_once(make: Callable[..., Celery], rabbit: RabbitServer) -> None:
    url = rabbit.url().replace("guest:guest", "guest:wrong")
    app = make(broker=rabbit.url(), drained_from=url, results="rpc://")
    with pytest.raises(Exception, match="ACCESS_REFUSED"):
        app.AsyncResult(uuid()).get(timeout=20)


# -- what messages cannot do


def test_no_chords(app: Celery) -> None:
    with pytest.raises(NotImplementedError, match="does not support chords"):
        chord([app.tasks["add"].s(1, 1)], app.tasks["total"].s())()


def test_no_saved_groups(app: Celery) -> None:
    with pytest.raises(NotImplementedError, match="not supported"):
        group(app.tasks["add"].s(1, 1))().save()
    with pytest.raises(NotImplementedError, match="not supported"):
        GroupResult.restore(uuid(), app=app)
