"""Things that are handed out to one user at a time each, and that cannot get lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import Empty, Full
from typing import Any

from ..clock import monotonic
from .signal import Signal

__all__ = ("PATIENCE", "Slots")

#: Seconds that a caller waits for a connection, or for its turn to call a store, at most.
PATIENCE = 60.0

#: Longest sleep in one piece, in seconds: who gives back in another thread may not be able to wake.
PIECE = 0.5


class Slots:
    """Hands things out in the order of asking, the one that came back last first.

    A semaphore, and a queue of the standard library, may let others run between taking a thing and
    having it. Who is killed just then, or whose ``gevent.Timeout`` ends just then, takes it along
    for ever: with gevent before 25.4 a pool was empty after some seconds of that. Here a thing is
    taken in one atomic step, nothing switches afterwards, and nothing is given to a sleeper: who is
    woken takes for itself, and where it cannot any more, it wakes the next one.

    It has what redis-py needs of a :class:`queue.LifoQueue`.

    :param maxsize: how many there are at most.
    :param signal: makes what a caller waits on.
    """

    def __init__(self, maxsize: int, signal: Callable[[], Signal]) -> None:
        self.maxsize = maxsize
        #: What is free.
        self.queue: deque[Any] = deque()
        self._signal = signal
        self.waiting: deque[Signal] = deque()
        #: Those whose turn it is, and who have not taken theirs so far.
        self.called: set[Signal] = set()

    def overdue(self) -> None:
        """Somebody has waited in vain for :data:`PIECE` seconds, or for as much as was left."""

    def put_nowait(self, thing: Any) -> None:
        """Give *thing* back. Never blocks, never switches.

        :raises queue.Full: where there are as many already.
        """
        if len(self.queue) >= self.maxsize:
            raise Full
        self.queue.append(thing)
        self._call_next()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take one.

        :param timeout: seconds to wait for one at most; None: no limit.
        :raises queue.Empty: where none has come back in time.
        """
        if not self.waiting and self._left:
            try:
                return self.queue.pop()
            except IndexError:
                pass  # another thread was faster
        if not block:
            raise Empty
        return self._wait(None if timeout is None else monotonic() + timeout)

    @property
    def _left(self) -> bool:
        """Whether there is one for somebody who has not been called."""
        return len(self.queue) > len(self.called)

    def _wait(self, deadline: float | None) -> Any:
        line = self.waiting.append
        while True:
            signal = self._signal()
            line(signal)
            try:
                if self._left:
                    self._call_next()  # it came back just before
                while not signal.ready:
                    left = PIECE if deadline is None else deadline - monotonic()
                    if left <= 0:
                        raise Empty
                    if not signal.wait(min(left, PIECE)):
                        self.overdue()
            except BaseException:
                self._leave(signal)
                raise
            self.called.discard(signal)
            try:
                return self.queue.pop()
            except IndexError:
                line = self.waiting.appendleft  # another thread was faster: be the next

    def _call_next(self) -> None:
        try:
            signal = self.waiting.popleft()
        except IndexError:
            return
        self.called.add(signal)
        signal.set()

    def _leave(self, signal: Signal) -> None:
        try:
            self.waiting.remove(signal)
        except ValueError:
            # It was called, or is just being, by another thread: the turn is the next one's.
            signal.wait(PIECE)
            self.called.discard(signal)
            if self._left:
                self._call_next()
