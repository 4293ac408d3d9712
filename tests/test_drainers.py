"""The life of a drain loop: started, stopped, killed, failing, idle."""

from __future__ import annotations

import errno
import gc
import logging
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from celery import Celery, uuid
from celery.result import GroupResult

from celery_green_drain import DrainerStopped, drainers, notices
from celery_green_drain.drainers import outage
from celery_green_drain.drainers.base import LASTED
from celery_green_drain.drainers.outage import Backoff

from .green import (
    DRAINER,
    GREEN,
    MODE,
    crowd,
    drain_loops,
    in_native_thread,
    kill,
    spawn,
    spawn_get,
    wait_until,
)
from .servers import RedisServer
from .tasks import make_app

Own: Any = drainers.ours(DRAINER)


class Stub:
    """A result consumer with nothing behind it, to be drained."""

    def __init__(self, drain: Callable[[], object] = lambda: None) -> None:
        self.turns = 0
        self.drain = drain
        self.drainer = Own(self)

    def drain_events(self, timeout: float | None = None) -> None:
        self.turns += 1
        self.drainer.sleep(0.01)
        self.drain()


class Promise:
    ready = False


def test_start_twice_is_one_loop() -> None:
    stub = Stub()
    before = drain_loops()
    stub.drainer.start()
    stub.drainer.start()
    wait_until(lambda: stub.turns > 3, "some turns")
    assert drain_loops() == before + 1
    stub.drainer.stop()
    assert drain_loops() == before


def test_stop_without_start_and_twice() -> None:
    stub = Stub()
    stub.drainer.stop()
    stub.drainer.start()
    stub.drainer.stop()
    stub.drainer.stop()
    turns = stub.turns
    stub.drainer.start()
    wait_until(lambda: stub.turns > turns, "a turn of the new loop")
    stub.drainer.stop()


def in_a_long_pause() -> Stub:
    """One whose connection is away: it has tried twice, and waits for a minute."""

    def lose() -> None:
        raise ConnectionError("gone")

    stub = Stub(lose)
    stub.drainer.backoff = Backoff(first=60, longest=60)
    stub.drainer.start()
    wait_until(lambda: stub.turns == 2, "the first attempt, which is made at once")
    return stub


def test_stop_ends_a_pause_after_a_failure() -> None:
    stub = in_a_long_pause()
    begun = time.monotonic()
    stub.drainer.stop()
    assert time.monotonic() - begun < 5
    assert stub.turns == 2


def test_who_begins_to_wait_ends_a_long_pause() -> None:
    stub = in_a_long_pause()
    for turns in (3, 4):
        stub.drainer.ask(len, ())
        wait_until(lambda: stub.turns == turns, "the next attempt")  # noqa: B023
    stub.drainer.stop()


def test_no_error_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    errors = [ConnectionError("cable"), ValueError("bug"), socket.timeout("quiet")]

    def fail() -> None:
        if errors:
            raise errors.pop()

    stub = Stub(fail)
    with caplog.at_level(logging.WARNING):
        stub.drainer.start()
        wait_until(lambda: "is back after" in caplog.text, "the recovery")
    turns = stub.turns
    wait_until(lambda: stub.turns > turns + 3, "further turns")
    stub.drainer.stop()
    lines = [record for record in caplog.records if record.name.startswith("celery_green_drain")]
    lost, back = lines  # one of each, however many attempts
    assert "bug" in lost.getMessage()
    assert lost.exc_info  # as this was no connection error
    assert "2 attempts" in back.getMessage()


def test_what_comes_and_goes_is_lost_once(caplog: pytest.LogCaptureFixture) -> None:
    """Such as a server that is starting: it accepts connections, and refuses commands."""

    def fail_each_other_time() -> None:
        if stub.turns % 2 and stub.turns < 10:
            raise ConnectionError("loading")

    stub = Stub(fail_each_other_time)
    stub.drainer.backoff = Backoff(first=0.01)
    stub.drainer.start()
    wait_until(lambda: "is back after" in caplog.text, "the recovery")
    stub.drainer.stop()
    assert caplog.text.count("Lost the connection") == 1
    assert "5 attempts" in caplog.text


def test_an_outage_tells_each_kind_of_error_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its text, as redis-py has one class for most, and not by a number in it."""
    monkeypatch.setattr(notices, "REPORT", 0.0)
    away = outage.Outage()
    for text in ("closed after 1 s", "closed after 2 s", "bad certificate", "closed after 3 s"):
        away.failed(ConnectionError(text), expected=True, refused=False)
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "closed after 1 s",
        "bad certificate",
    ]


def test_what_works_in_between_is_opened_anew_soon() -> None:
    """However often it breaks: pauses are for a server that cannot be reached."""
    since, failures = list[float](), list[str]()

    def fail_after_a_while() -> None:
        since.append(time.monotonic())
        if since[-1] - since[0] > 2 * LASTED:
            since.clear()
            failures.append("killed")
            raise ConnectionError("killed")

    stub = Stub(fail_after_a_while)
    stub.drainer.backoff = Backoff(first=60, longest=60)
    stub.drainer.start()
    wait_until(lambda: len(failures) == 4, "the fourth failure")
    stub.drainer.stop()


@pytest.mark.skipif(not GREEN, reason="a thread cannot be killed")
def test_killed_it_starts_again(
    app: Celery, store: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    assert app.AsyncResult(store(1)).get(timeout=5) == 1
    drainer = app.backend.result_consumer.drainer
    result = app.AsyncResult(uuid())
    calls: list[object] = []
    result.then(calls.append)
    kill(drainer.loop)
    store(2, task_id=result.id)
    wait_until(lambda: calls == [result], "the callback, from the next loop")
    assert drain_loops() == 1
    assert "was killed" in caplog.text


@pytest.mark.skipif(not GREEN, reason="a thread cannot be killed")
def test_killed_twice_it_starts_again() -> None:
    """Also while what handles the log waits."""
    stub = Stub()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            time.sleep(0.1)

    handler = Handler()
    logging.getLogger("celery_green_drain").addHandler(handler)
    try:
        stub.drainer.start()
        wait_until(lambda: stub.turns, "a turn")
        loop = stub.drainer.loop
        spawn(kill, loop)
        time.sleep(0.05)
        kill(loop)
    finally:
        logging.getLogger("celery_green_drain").removeHandler(handler)
    turns = stub.turns
    wait_until(lambda: stub.turns > turns, "a turn of the new loop")
    stub.drainer.stop()


@pytest.mark.skipif(not GREEN, reason="a thread cannot be killed")
def test_what_was_spawned_and_has_not_begun_is_discarded() -> None:
    drainer, ran = Own(Stub()), list[int]()
    drainer.discard(drainer.spawn(ran.append, 1))
    time.sleep(0.05)
    assert not ran


@pytest.mark.skipif(MODE != "gevent", reason="only gevent has a hub in each native thread")
def test_who_waited_in_a_native_thread_that_has_ended_is_passed_over() -> None:
    signal = Own(Stub()).signal()

    def wait() -> None:
        import gevent

        gevent.spawn(signal.wait)
        gevent.sleep(0)
        gevent.get_hub().destroy(destroy_loop=True)

    in_native_thread(wait)()
    signal.set()
    assert signal.wait(0)


@pytest.mark.skipif(not GREEN, reason="a thread cannot be killed")
def test_what_handles_the_log_line_may_start_it_too() -> None:
    """As one that sends each line as a task does."""
    stub = Stub()
    started: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            stub.drainer.start()
            started.append(record.getMessage())

    handler = Handler()
    logging.getLogger("celery_green_drain").addHandler(handler)
    try:
        stub.drainer.start()
        kill(stub.drainer.loop)  # before it has run
        stub.drainer.start()
    finally:
        logging.getLogger("celery_green_drain").removeHandler(handler)
    assert any("was killed" in text for text in started)
    wait_until(lambda: stub.turns, "a turn")
    stub.drainer.stop()


@pytest.mark.skipif(not GREEN, reason="a thread cannot be killed")
def test_killed_before_it_ran_it_starts_again_by_itself(
    app: Celery, store: Callable[..., str]
) -> None:
    calls: list[object] = []
    result = app.AsyncResult(store(1))
    result.then(calls.append)
    kill(app.backend.result_consumer.drainer.loop)
    wait_until(lambda: calls == [result], "the callback, though nobody else asks")


class Rang(Exception):
    """Raised by a signal handler."""


def ring_when_spawned(
    app: Celery, monkeypatch: pytest.MonkeyPatch, before: bool, handler: Callable[[], object]
) -> None:
    """Call *handler* when the loop is spawned next: where a signal may come."""
    drainer = app.backend.result_consumer.drainer
    spawn_it, handlers = drainer.spawn, [handler]

    def spawn(*args: Any) -> Any:
        spawned = None if before else spawn_it(*args)
        if handlers:
            handlers.pop()()
        return spawn_it(*args) if before else spawned

    monkeypatch.setattr(drainer, "spawn", spawn)


@pytest.mark.parametrize("before", [False, True])
def test_a_signal_handler_raises_while_it_starts(
    before: bool, app: Celery, store: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ring() -> None:
        raise Rang

    ring_when_spawned(app, monkeypatch, before, ring)
    with pytest.raises(Rang):
        app.AsyncResult(uuid()).get(timeout=20)
    late = uuid()
    outcome = spawn_get(app.AsyncResult(late))
    wait_until(lambda: app.backend.result_consumer.statistics().pending == 1, "the next wait")
    store(2, task_id=late)
    wait_until(lambda: outcome == [2], "its result")
    assert drain_loops() == 1


@pytest.mark.parametrize("before", [False, True])
def test_a_signal_handler_waits_while_it_starts(
    before: bool, app: Celery, store: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[object] = []
    ring_when_spawned(
        app, monkeypatch, before, lambda: got.append(app.AsyncResult(store(1)).get(timeout=20))
    )
    assert app.AsyncResult(store(2)).get(timeout=20) == 2
    assert got == [1]
    assert drain_loops() == 1


def test_without_files_for_what_it_sleeps_on(
    app: Celery,
    store: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls, make = [0], socket.socketpair
    opened = threading.Event()

    def socketpair() -> Any:
        calls[0] += 1
        if calls[0] == 10:
            monkeypatch.setattr(socket, "socketpair", make)
            opened.set()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", socketpair)
    outcome = spawn_get(app.AsyncResult(store(1)))
    assert opened.wait(60)
    wait_until(lambda: outcome == [1], "the result", timeout=60)
    assert "was killed" not in caplog.text
    (lost,) = [text for text in caplog.messages if "Lost the connection" in text]
    assert "Too many open files" in lost


def lacking(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """What is raised in place of spawning, as long as there is something in the list."""
    drainer = app.backend.result_consumer.drainer
    spawned, lacks = drainer.spawn, list[Exception]()

    def spawn_or_not(*args: Any) -> Any:
        if lacks:
            raise lacks.pop()
        return spawned(*args)

    monkeypatch.setattr(drainer, "spawn", spawn_or_not)
    return lacks


@pytest.mark.parametrize("together", [False, True])
def test_a_callback_that_cannot_be_given_is_not_called(
    together: bool, app: Celery, store: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is given once more; then it is called once."""
    lacks, calls = lacking(app, monkeypatch), []
    lacks.append(RuntimeError("can't start new thread"))
    ids = [uuid(), uuid()]
    members = [app.AsyncResult(task_id) for task_id in ids]
    result = GroupResult(uuid(), members, app=app) if together else members[0]
    with pytest.raises(RuntimeError, match="new thread"):
        result.then(lambda _: calls.append("refused"))
    result.then(lambda _: calls.append("given"))
    for task_id in ids:
        store(1, task_id=task_id)
    wait_until(lambda: calls, "the callback")
    assert app.AsyncResult(store(2)).get(timeout=20) == 2
    wait_until(lambda: not app.backend.result_consumer.statistics().pending, "an empty table")
    assert calls == ["given"]


def test_a_loop_that_cannot_be_spawned_is_spawned_later(
    app: Celery, store: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks = lacking(app, monkeypatch)
    lacks += [RuntimeError("can't start new thread")] * 2
    for _ in range(2):
        with pytest.raises(RuntimeError, match="new thread"):
            app.AsyncResult(uuid()).get(timeout=5)
    assert app.AsyncResult(store(1)).get(timeout=5) == 1
    # The same for a callback: it is called once there is a thread for it.
    lacks += [RuntimeError("can't start new thread")] * 2
    calls: list[object] = []
    result = app.AsyncResult(store(2))
    result.then(calls.append)
    wait_until(lambda: calls == [result], "the callback")


def test_stop_is_the_end_of_it(
    app: Celery, store: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the loop still has to count for groups while it ends."""
    consumer = app.backend.result_consumer
    calls: list[object] = []
    for _ in range(20):
        member = app.AsyncResult(store(1))
        inner = GroupResult(uuid(), [member], app=app)
        GroupResult(uuid(), [inner], app=app).then(calls.append)
        assert member.ready()
        consumer.stop()
        # A native thread has told its end a moment before it is over.
        wait_until(lambda: drain_loops() == 0, "the end of the loop")
    assert "was killed" not in caplog.text
    consumer.start()
    wait_until(lambda: len(calls) == 20, "all callbacks")


def test_backoff() -> None:
    backoff = Backoff(first=0.1, longest=2)
    most = [backoff.pause(failures, jitter=lambda: 1.0) for failures in range(1, 8)]
    assert most == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2, 2])
    assert backoff.pause(1, jitter=lambda: 0.0) == pytest.approx(0.05)
    assert backoff.pause(10**9) <= 2


# -- Celery's interface


def test_drain_events_until_ends_when_ready() -> None:
    stub, promise = Stub(), Promise()
    yields = 0
    for _ in stub.drainer.drain_events_until(promise, timeout=20):
        yields += 1
        promise.ready = yields == 3
    stub.drainer.stop()
    assert yields == 3


def test_drain_events_until_times_out_and_ticks() -> None:
    stub = Stub(lambda: stub.drainer.sleep(0.05))
    ticks: list[int] = []
    until = stub.drainer.drain_events_until(
        Promise(), timeout=0.3, interval=0.01, on_interval=lambda: ticks.append(1)
    )
    with pytest.raises(socket.timeout):
        list(until)
    stub.drainer.stop()
    assert len(ticks) > 2


def test_wait_for_is_over_at_once_where_it_is_ready() -> None:
    stub, promise = Stub(), Promise()
    promise.ready = True
    stub.drainer.wait_for(promise, None)
    assert list(stub.drainer.drain_events_until(promise, timeout=0)) == []
    stub.drainer.stop()


def test_signal_set_before_the_wait() -> None:
    signal = Own(Stub()).signal()
    signal.set()
    signal.set()
    assert signal.wait(0)
    assert signal.wait()


def test_a_very_long_wait() -> None:
    stub = Stub()
    signal = stub.drainer.signal()
    spawn(lambda: (stub.drainer.sleep(0.05), signal.set()))
    assert signal.wait(1e11)


def test_signal_of_another_thread() -> None:
    drainer = Own(Stub())
    signal = drainer.signal()
    spawn(lambda: (drainer.sleep(0.05), signal.set()))
    assert signal.wait(20)
    assert not drainer.signal().wait(0.01)


@pytest.mark.skipif(not GREEN, reason="native threads cannot be killed")
def test_who_is_killed_and_waits_for_something_else_is_not_woken() -> None:
    signal, slept = Own(Stub()).signal(), []

    def wait() -> None:
        try:
            signal.wait()
        finally:
            time.sleep(0.05)
            slept.append(True)

    waiting = spawn(wait)
    time.sleep(0)
    if DRAINER == "gevent":
        waiting.kill(block=False)  # at the next turn of its hub, before what set() has it do
    else:
        kill(waiting)
    signal.set()
    wait_until(lambda: waiting.dead, "the end of the one that was killed")
    assert slept


def test_a_note_that_fails_is_logged(
    app: Celery, store: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise LookupError("bad note")

    app.backend.result_consumer.in_loop(refuse)
    wait_until(lambda: "bad note" in caplog.text, "the log line")
    assert app.AsyncResult(store(1)).get(timeout=5) == 1


def test_celerys_calls_on_a_consumer(app: Celery, results: RedisServer) -> None:
    consumer = app.backend.result_consumer
    consumer.stop()
    consumer.consume_from("a task")
    consumer.cancel_for("a task")
    consumer.on_after_fork()
    assert results.clients() == []
    consumer.start("a task")
    wait_until(results.clients, "a connection")
    result = app.AsyncResult(uuid())
    result.then(lambda result: None)
    meta = {"task_id": result.id, "status": "SUCCESS", "result": 3, "children": []}
    consumer.on_state_change(meta, None)
    for _ in consumer.drain_events_until(result.on_ready, timeout=20):
        pass
    assert result.get(timeout=0) == 3


# -- stopped with somebody waiting


def test_stop_tells_who_waits_and_start_serves_the_callbacks(
    app: Celery, store: Callable[..., str], results: RedisServer
) -> None:
    result = app.AsyncResult(uuid())
    calls: list[object] = []
    result.then(calls.append)
    consumer = app.backend.result_consumer

    def get_or_stop(i: int) -> object:
        if i:
            wait_until(lambda: results.subscriptions() == 2, "the subscriptions")
            return consumer.stop()
        return app.AsyncResult(uuid()).get(timeout=20)

    stopped = crowd(2, get_or_stop)[0]
    assert isinstance(stopped, DrainerStopped)
    assert consumer.statistics().connections == 0
    store(task_id=result.id)
    consumer.start()
    wait_until(lambda: calls == [result], "the callback")


def test_it_ends_with_its_app(broker: RedisServer, results: RedisServer) -> None:
    def use() -> Any:
        app = make_app(broker.url(), results.url("web"), result_drainer=DRAINER)
        app.backend.store_result("of nobody", 1, "SUCCESS")
        assert app.AsyncResult("of nobody").get(timeout=5) == 1
        app.close()
        return weakref.ref(app.backend)

    backend = use()
    wait_until(lambda: gc.collect() >= 0 and backend() is None, "the end of the backend")
    wait_until(lambda: not drain_loops(), "the end of the loop")
    wait_until(lambda: not results.clients(), "the end of its connections")


# -- native threads beside the hub


@pytest.mark.skipif(not GREEN, reason="all threads are native here")
def test_a_native_thread_waits_as_well(app: Celery, store: Callable[..., str]) -> None:
    assert app.AsyncResult(store(1)).get(timeout=5) == 1
    task_id = uuid()
    native = in_native_thread(lambda: app.AsyncResult(task_id).get(timeout=20))
    time.sleep(0.1)
    store(2, task_id=task_id)
    assert native() == 2
    # A callback for what is ready already runs where the greenlets are.
    result, here, there = app.AsyncResult(task_id), threading.get_ident(), []
    assert result.get(timeout=5) == 2
    in_native_thread(lambda: result.then(lambda _: there.append(threading.get_ident())))()
    wait_until(lambda: there, "the callback")
    assert here


class Lazy:
    """What stands in for something that cannot be found yet, as Django's lazy objects."""

    def __getattribute__(self, name: str) -> Any:
        raise LookupError("too early")


@pytest.mark.skipif(not GREEN, reason="all threads are native here")
def test_a_native_thread_waits_first(
    app: Celery, store: Callable[..., str], make: Callable[..., Celery]
) -> None:
    task_id = uuid()
    odd = [Lazy(), weakref.proxy(Lazy())]
    make().backend.store_result(task_id, 3, "SUCCESS")  # by another one, as that reads a state
    native = in_native_thread(lambda: app.AsyncResult(task_id).get(timeout=20))
    if DRAINER == "gevent":
        assert native() == 3
        assert app.AsyncResult(store(4)).get(timeout=5) == 4
    else:
        with pytest.raises(RuntimeError, match="wait in the main thread first"):
            native()
    assert len(odd) == 2


@pytest.mark.skipif(GREEN, reason="greenlets share the signals of their thread")
def test_signals_are_for_other_threads(app: Celery, store: Callable[..., str]) -> None:
    """A host's handler in C would run in the one that gets it. Callbacks are as all threads are."""
    blocked = partial(signal.pthread_sigmask, signal.SIG_BLOCK, ())
    consumer = app.backend.result_consumer
    masks: list[set[int]] = []
    consumer.in_loop(lambda: masks.append(blocked()))
    wait_until(lambda: masks, "the loop")
    app.AsyncResult(store(1)).then(lambda result: masks.append(blocked()))
    wait_until(lambda: len(masks) == 2, "the callback")
    assert signal.SIGTERM in masks[0]
    assert masks[1] == blocked()


def test_two_threads_share_one_backend(make: Callable[..., Celery]) -> None:
    app = make()
    barrier = threading.Barrier(8)

    def backend(i: int) -> object:
        barrier.wait(20)
        return app.backend

    assert len(set(map(id, crowd(8, backend)))) == 1
