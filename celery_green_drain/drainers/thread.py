"""The drainer for processes without green threads: nothing but threads."""

from __future__ import annotations

import logging
import selectors
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

from celery.backends.asynchronous import register_drainer

from .base import Drainer
from .patching import threads_are_green
from .ticket import Ticket

__all__ = ("ThreadDrainer", "ThreadSignal")

logger = logging.getLogger(__name__)

#: Longest wait of one piece, in seconds.
LONGEST = 86_400.0

#: Signals that tell a process something. Not those of a fault, nor those of profilers.
TELLING = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM")

#: Whether the functions of ``atexit`` can start no thread.
ENDS_WITHOUT_THREADS = sys.version_info[:2] == (3, 12)


@register_drainer("thread")
class ThreadDrainer(Drainer):
    """Drains in a daemon thread. Where a green library patched the process, in its greenlet."""

    name = "thread"

    def __init__(self, result_consumer: Any) -> None:
        super().__init__(result_consumer)
        self._spare = _Spare(self) if ENDS_WITHOUT_THREADS else None
        #: The signals that were blocked where the loop was started; None: it blocks none.
        self._blocked: set[Any] | None = None

    def run(self, ticket: Ticket) -> None:
        # The kernel hands a second signal to any thread, and uWSGI ends the interpreter in the one
        # that gets it: here it would wait for the main one for ever. So uWSGI's do the same.
        self._blocked = _block_signals()
        super().run(ticket)

    def _called(self, *call: Any) -> None:
        if self._blocked is not None:  # inherited, as it would be by the programs that this starts
            signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
        super()._called(*call)

    def spawn(self, function: Callable[..., object], *args: Any) -> object:
        # A daemon, so that neither the loop nor a callback that hangs keeps the process alive.
        name = f"celery_green_drain {getattr(function, '__qualname__', function)}"
        thread = threading.Thread(target=function, args=args, daemon=True, name=name)
        try:
            thread.start()
        except RuntimeError:
            # Not for the loop, which would keep it from all callbacks.
            spare = self._spare if function == self._called else None
            if spare is None or threading.main_thread().is_alive():
                raise
            return spare.run(function, args)
        return thread

    def lives(self, spawned: Any) -> bool:
        return spawned is not None and spawned.is_alive()

    def signal(self) -> ThreadSignal:
        return self.own_signal()

    @classmethod
    def own_signal(cls) -> ThreadSignal:
        return ThreadSignal(threading.Lock())

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def selector(self) -> selectors.BaseSelector:
        return selectors.DefaultSelector()


def _block_signals() -> set[Any] | None:
    """Have this native thread get no signals; return which it did not get before."""
    if threads_are_green() or not hasattr(signal, "pthread_sigmask"):
        return None
    telling = {getattr(signal, name) for name in TELLING}
    return signal.pthread_sigmask(signal.SIG_BLOCK, telling)


class _Spare:
    """A thread for when none can be started any more. It ends with its *owner*."""

    def __init__(self, owner: object) -> None:
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        name = "celery_green_drain spare"
        self._thread = threading.Thread(target=_serve, args=(self._calls,), daemon=True, name=name)
        self._thread.start()
        weakref.finalize(owner, self._calls.put, None).atexit = False

    def run(self, function: Callable[..., object], args: tuple[Any, ...]) -> threading.Thread:
        """Run ``function(*args)`` after what it was given before; return the thread."""
        self._calls.put(partial(function, *args))
        return self._thread


def _serve(calls: SimpleQueue[Callable[[], object] | None]) -> None:
    while True:
        _block_signals()  # anew, as a callback gets them
        call = calls.get()
        if call is None:
            return
        try:
            call()
        except Exception:
            logger.exception("A call beside the drain loop failed: %r", call)


class ThreadSignal:
    """A :class:`~celery_green_drain.drainers.signal.Signal` made of one lock."""

    __slots__ = ("_lock", "ready")

    def __init__(self, lock: Any) -> None:
        self.ready = False
        self._lock = lock
        lock.acquire()

    def set(self) -> None:
        if not self.ready:
            self.ready = True
            with suppress(RuntimeError):  # another thread has just done so
                self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        if self.ready:
            return True
        # Longer than the longest is for the caller to repeat: the platform's clock has an end.
        seconds = -1 if timeout is None else min(max(timeout, 0), LONGEST)
        return bool(self._lock.acquire(timeout=seconds))
