"""The mode of this run, and what the tests need of its library."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery_green_drain import Drainer

MODE = os.environ.get("TESTS_MODE", "unpatched")
GREEN = MODE in ("gevent", "eventlet")

#: The ``result_drainer`` that fits this run.
DRAINER = MODE if GREEN else "thread"


def size(green: int, threads: int) -> int:
    """How many to wait at once: native threads are dearer than greenlets."""
    return green if GREEN else threads


def spawn(function: Callable[..., Any], *args: Any) -> Any:
    """Run ``function(*args)`` beside the test, in a greenlet or a thread."""
    if MODE == "gevent":
        import gevent

        return gevent.spawn(function, *args)
    if MODE == "eventlet":
        import eventlet

        return eventlet.spawn(function, *args)
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def spawn_get(result: Any, timeout: float = 60, **options: Any) -> list[Any]:
    """Wait for *result* beside the test; the list gets its value, or the error."""
    outcome: list[Any] = []

    def get() -> None:
        try:
            outcome.append(result.get(timeout=timeout, **options))
        except Exception as exc:
            outcome.append(exc)

    spawn(get)
    return outcome


def kill(spawned: Any) -> None:
    """Kill a greenlet where it waits."""
    spawned.kill()


def in_native_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Run *function* in a native thread beside the hub; return what waits for its outcome."""
    if DRAINER == "gevent":
        import gevent

        outcome = gevent.get_hub().threadpool.spawn(function)
        get: Callable[[], Any] = outcome.get
        return get
    import eventlet
    from eventlet import tpool

    green = eventlet.spawn(tpool.execute, function)
    wait: Callable[[], Any] = green.wait
    return wait


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise in the caller where it is still inside after *seconds*, so that it shows where."""
    timeout: Any
    if MODE == "gevent":
        import gevent

        timeout = gevent.Timeout(seconds, TooLong(f"not over within {seconds:g} s"))
        timeout.start()
    elif MODE == "eventlet":
        import eventlet

        timeout = eventlet.Timeout(seconds, TooLong(f"not over within {seconds:g} s"))
    else:
        timeout = _Alarm(seconds)
    try:
        yield
    finally:
        timeout.cancel()


class TooLong(BaseException):
    """No ``Exception``, so that nobody inside takes it for one of its own."""


class _Alarm:
    """The same for the main thread of an unpatched process."""

    def __init__(self, seconds: float) -> None:
        self._before = signal.signal(signal.SIGALRM, self._ring)
        self._seconds = seconds
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def _ring(self, *_: object) -> None:
        raise TooLong(f"not over within {self._seconds:g} s")

    def cancel(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)


def crowd(count: int, function: Callable[[int], Any], timeout: float = 120) -> list[Any]:
    """Call ``function(0)`` to ``function(count - 1)`` at once; return what they return or raise."""
    outcomes: list[Any] = [None] * count
    ended = itertools.count(1)
    done = threading.Event()

    def one(index: int) -> None:
        try:
            outcomes[index] = function(index)
        except Exception as exc:
            outcomes[index] = exc
        if next(ended) == count:  # in one step, as these may be native threads
            done.set()

    for index in range(count):
        spawn(one, index)
    if not done.wait(timeout):
        raise AssertionError(f"{next(ended) - 1} of {count} are back after {timeout} s")
    return outcomes


def block(seconds: float) -> None:
    """Let nothing else run in this thread, as a long computation does."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def green_timeout(seconds: float, raises: bool = False) -> Any:
    """A timeout of the green library that patched this process.

    :param raises: whether who has used it gets it raised.
    """
    if MODE == "gevent":
        import gevent

        return gevent.Timeout(seconds, None if raises else False)
    import eventlet

    return eventlet.Timeout(seconds, None if raises else False)


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 20) -> Any:
    """Return what *condition* says once it is true, or fail with *what* was waited for."""
    begun = time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        waited = time.monotonic() - begun
        if waited > timeout:
            raise AssertionError(f"not within {timeout} s: {what}")
        # What takes long is not looked at so often, as other modes are being tested as well.
        time.sleep(min(max(waited / 50, 0.01), 0.1))


def drain_loops(green: bool = GREEN) -> int:
    """How many drain loops run in this process, in greenlets and threads, by their stacks."""
    threads = sum(_drains(frame) for frame in sys._current_frames().values())
    return threads + (len(loop_greenlets()) if green else 0)


def loop_greenlets() -> list[Any]:
    """The greenlets in which drain loops run, but for the one that asks."""
    import greenlet

    # The type, as something else may stand in for an object and have another class.
    things = [thing for thing in gc.get_objects() if issubclass(type(thing), greenlet.greenlet)]
    return [thing for thing in things if _drains(thing.gr_frame)]


def _drains(frame: Any) -> bool:
    return _runs(frame, Drainer.run.__code__)


def _runs(frame: Any, code: Any) -> bool:
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False


@contextmanager
def woken() -> Iterator[set[Any]]:
    """Collect the greenlets that are switched to meanwhile."""
    import greenlet

    targets: set[Any] = set()

    def trace(event: str, args: Any) -> None:
        if event == "switch":
            targets.add(args[1])

    before = greenlet.settrace(trace)
    try:
        yield targets
    finally:
        greenlet.settrace(before)
