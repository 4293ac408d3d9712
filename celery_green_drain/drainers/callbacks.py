"""Runs calls beside a drain loop, in as few greenlets as they need."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ("CallbackRunner",)

logger = logging.getLogger(__name__)

#: Calls that one greenlet makes before others may run.
SHIFT = 100


class CallbackRunner:
    """Calls that do not wait share a greenlet; behind one that does, another takes over.

    To start a greenlet costs many times what a short call does. So before each call the next
    greenlet is on its way, and as greenlets run only while others wait, it comes to its turn where
    this one has to wait, and finds nothing to do otherwise.

    :param spawn: starts a greenlet, which must not run before the caller waits, and returns it.
        Its ``link()`` tells of its end.
    """

    def __init__(self, spawn: Callable[..., Any]) -> None:
        self._spawn = spawn
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        #: The greenlet that is on its way.
        self._next: Any = None
        self._under_way = 0

    def __len__(self) -> int:
        """How many calls have not ended."""
        return len(self._calls) + self._under_way

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function(*args)`` soon."""
        self._calls.append((function, args))
        self._relieve()

    def _relieve(self) -> None:
        if self._calls and (self._next is None or self._next.dead):
            self._next = self._spawn(self._work)
            self._next.link(self._ended)

    def _ended(self, greenlet: Any) -> None:
        # Killed before it ran, as by something that kills all greenlets there are.
        if greenlet is self._next:
            self._next = None
            self._relieve()

    def _work(self) -> None:
        self._next = None
        for _ in range(SHIFT):
            if not self._calls:
                return
            function, args = self._calls.popleft()
            self._under_way += 1  # in one thread all of them
            try:
                if self._next is None:
                    self._relieve()
                function(*args)
            except Exception:
                # Whatever has resumed this greenlet would get it: in eventlet perhaps its hub.
                logger.exception("A call beside the drain loop failed: %r%r", function, args)
            finally:
                self._under_way -= 1
        self._relieve()
