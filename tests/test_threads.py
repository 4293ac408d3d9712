"""Native threads beside the hub of a green library: its pool's, and those of no patched module."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, uuid

from .green import DRAINER, GREEN, MODE, block, drain_loops, spawn, wait_until

pytestmark = [
    pytest.mark.kinds("redis", "rpc, rabbitmq"),
    pytest.mark.skipif(not GREEN, reason="all threads are native here"),
]

COUNT = 8


def from_pool(function: Callable[[], Any]) -> Callable[[], Any]:
    """In the library's pool for what would block."""
    if DRAINER == "gevent":
        import gevent

        get: Callable[[], Any] = gevent.get_hub().threadpool.spawn(function).get
        return get
    import eventlet
    from eventlet import tpool

    wait: Callable[[], Any] = eventlet.spawn(tpool.execute, function).wait
    return wait


def from_unpatched_module(function: Callable[[], Any]) -> Callable[[], Any]:
    """In a ``threading.Thread`` of a module that was not patched."""
    if MODE == "gevent":
        from gevent.monkey import get_original

        start = get_original("_thread", "start_new_thread")
    else:
        from eventlet import patcher

        start = patcher.original("_thread").start_new_thread
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as exc:
            outcome.append(exc)

    start(run, ())

    def get() -> Any:
        wait_until(lambda: outcome, "the thread", timeout=60)
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    return get


@pytest.fixture(params=[from_pool, from_unpatched_module])
def native(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    run: Callable[[Callable[[], Any]], Callable[[], Any]] = request.param
    return run


def test_many_wait_beside_the_hub(
    app: Celery, store: Callable[..., str], native: Callable[..., Callable[[], Any]]
) -> None:
    loops = drain_loops()
    assert app.AsyncResult(store(0)).get(timeout=20) == 0
    ids = [uuid() for _ in range(COUNT)]
    waiting = [native(lambda i=i: app.AsyncResult(ids[i]).get(timeout=60)) for i in range(COUNT)]
    statistics = app.backend.result_consumer.statistics
    wait_until(lambda: statistics().pending == COUNT, "the waits")
    for i, task_id in enumerate(ids):
        store(i, task_id=task_id)
    assert [get() for get in waiting] == list(range(COUNT))
    assert statistics().connects == 1
    assert drain_loops() == loops + 1


def test_callbacks_run_where_the_greenlets_are(
    app: Celery, store: Callable[..., str], native: Callable[..., Callable[[], Any]]
) -> None:
    assert app.AsyncResult(store(0)).get(timeout=20) == 0
    task_id = uuid()
    called: list[Any] = []
    result = app.AsyncResult(task_id)
    native(lambda: result.then(noting(called)))()
    store(1, task_id=task_id)
    wait_until(lambda: called == [(1, ident())], "the callback")


def noting(called: list[Any]) -> Callable[[Any], None]:
    """A callback that appends the value and the thread that it was called in."""
    return lambda result: called.append((result.get(), ident()))


def ident() -> int:
    """The native thread, whatever is patched."""
    return threading.get_native_id()


@pytest.mark.skipif(DRAINER != "gevent", reason="eventlet's hub cannot be found from elsewhere")
@pytest.mark.kinds("redis")
def test_several_wait_first_at_once(
    make: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them starts the loop, and none of the others ends it."""
    task_id = uuid()
    make().backend.store_result(task_id, 1, "SUCCESS")
    for _ in range(2):
        app = make()
        drainer = app.backend.result_consumer.drainer
        settle = drainer._settle
        # It takes long, so that the others stand behind the one that starts.
        monkeypatch.setattr(drainer, "_settle", lambda: (block(0.1), settle()))  # noqa: B023
        waits = [
            from_unpatched_module(lambda: app.AsyncResult(task_id).get(timeout=20))  # noqa: B023
            for _ in range(4)
        ]
        block(0.5)  # meanwhile no loop begins
        assert [wait() for wait in waits] == [1] * 4
        assert app.AsyncResult(task_id).get(timeout=20) == 1


def test_it_wakes_who_waits_in_the_main_thread(app: Celery) -> None:
    """As who takes a result first tells all the others that wait for it."""
    drainer = app.backend.result_consumer.drainer
    drainer.start()
    for _ in range(20):
        signal, outcome = drainer.signal(), list[bool]()
        spawn(lambda: outcome.append(signal.wait(60)))  # noqa: B023
        time.sleep(0)  # it waits now
        from_unpatched_module(signal.set)()
        wait_until(lambda: outcome == [True], "the end of the wait")  # noqa: B023


def test_the_first_callback_is_given_in_a_native_thread(
    make: Callable[..., Celery], tmp_path: Path, native: Callable[..., Callable[[], Any]]
) -> None:
    """Before the loop begins, which knows where greenlets live."""
    app = make(results=f"file://{tmp_path}")
    ids = [uuid(), uuid()]
    for number, task_id in enumerate(ids):
        app.backend.store_result(task_id, number, "SUCCESS")
    called: list[Any] = []

    def give() -> None:
        result = app.AsyncResult(ids[0])
        result.get(timeout=0)  # for which a file needs no loop
        result.then(noting(called))

    if DRAINER == "gevent":
        native(give)()
    else:
        with pytest.raises(RuntimeError, match="in a native thread"):
            native(give)()
    app.AsyncResult(ids[1]).then(noting(called))
    wait_until(lambda: sorted(called) == [(0, ident()), (1, ident())], "both callbacks")


def test_a_timeout_in_a_native_thread(
    app: Celery, store: Callable[..., str], native: Callable[..., Callable[[], Any]]
) -> None:
    from celery.exceptions import TimeoutError

    assert app.AsyncResult(store(0)).get(timeout=20) == 0
    with pytest.raises(TimeoutError):
        native(lambda: app.AsyncResult(uuid()).get(timeout=0.1))()
    statistics = app.backend.result_consumer.statistics
    wait_until(lambda: statistics().pending == 0, "the end of the wait")


def test_a_stop_reaches_native_threads(
    app: Celery, store: Callable[..., str], native: Callable[..., Callable[[], Any]]
) -> None:
    from celery_green_drain import DrainerStopped

    assert app.AsyncResult(store(0)).get(timeout=20) == 0
    waiting = native(lambda: app.AsyncResult(uuid()).get(timeout=60))
    wait_until(lambda: app.backend.result_consumer.statistics().pending, "the wait")
    app.backend.result_consumer.stop()
    with pytest.raises(DrainerStopped):
        waiting()
