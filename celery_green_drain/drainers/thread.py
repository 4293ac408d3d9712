"""The drainer for processes without green threads: nothing but threads."""

from __future__ import annotations

import selectors
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery.backends.asynchronous import register_drainer

from .base import Drainer

__all__ = ("ThreadDrainer", "ThreadSignal")


#: Longest wait of one piece, in seconds.
LONGEST = 86_400.0


@register_drainer("thread")
class ThreadDrainer(Drainer):
    """Drains in a daemon thread. Where a green library patched the process, in its greenlet."""

    name = "thread"

    def spawn(self, function: Callable[..., object], *args: Any) -> object:
        # A daemon, so that neither the loop nor a callback that hangs keeps the process alive.
        name = f"celery_green_drain {getattr(function, '__qualname__', function)}"
        thread = threading.Thread(target=function, args=args, daemon=True, name=name)
        thread.start()
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


class ThreadSignal:
    """A :class:`~celery_green_drain.drainers.library.Signal` made of one lock."""

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
