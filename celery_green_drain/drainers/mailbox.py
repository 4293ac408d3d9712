"""The mailbox of a drain loop: the one way into it from outside."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from ..clock import monotonic
from .library import Library

__all__ = ("Abandoned", "Mailbox", "Source")

logger = logging.getLogger(__name__)

#: Notes that one turn reads at most, so that a million of them keep nobody else from running.
BATCH = 1000

#: Something with a ``fileno()``.
Source = Any


class Abandoned(BaseException):
    """Raised in the copy of a drain loop that a fork has left in the child. Ends it, silently."""


class Mailbox:
    """What a drain loop is told, and what it sleeps on. There is one for each loop.

    The loop alone touches the pending results, the connections, and what it counts. Everybody
    else leaves a note: a function that the loop calls at its next turn. These are the rules.

    **Who may do what.** :meth:`post` is for everybody, in any greenlet and thread: finalisers,
    which may run in the middle of anything, this class included, and signal handlers. It takes no
    lock, never blocks, never switches, and raises nothing. All else is for the loop alone.

    **What is atomic.** To append to a deque, to take its first item, to set a flag. Nothing here
    is counted with ``+=`` by two threads, and nothing that others change is iterated over.

    **In which order.** Who posts appends first and wakes then. The loop takes notice of being
    woken first (:meth:`wait`), and reads then (:meth:`read`). Whatever comes in between is seen at
    once, or wakes the loop again; and where a note is there, :meth:`wait` does not sleep.

    **How much.** A turn reads the notes that were there at its beginning, :data:`BATCH` of them at
    most. A note may post further ones: they are of the next turn. A note must not block; it may
    not let others run either, so what is long posts its rest.

    **Who is told of a failure.** A note that raises is logged, and the next one is read.

    **After a fork** the child's loop has another mailbox. The loop's copy in the child, if there
    is one, is ended at the next moment at which it looks: :meth:`wait` and
    :meth:`look` raise :exc:`Abandoned`, also where the fork has told nobody. The loop calls
    :meth:`look` wherever it has let others run in another way, such as by a write that had to wait.

    :param library: the green library in whose greenlet the loop runs.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        #: Each one tuple, as the garbage collector walks over all that wait here: whether it is
        #: one that somebody waits for, the function, and its arguments.
        self._notes: deque[tuple[Any, ...]] = deque()
        #: Notes for later: when, in which order, and the note.
        self._later: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self._pid = os.getpid()
        self._selector: selectors.BaseSelector | None = None
        self._receiver: socket.socket | None = None
        self._sender: socket.socket | None = None
        #: Whether the loop was woken since it last took notice of that, and whether it sleeps. One
        #: that does not needs no byte for it: in gevent's selectors nobody would read that until
        #: the next sleep, and the hub would be told of it over and over.
        self._awake = self._asleep = False
        #: Whether there may be a byte to read.
        self._rung = False
        self._abandoned = False
        self._reader = 0

    def __repr__(self) -> str:
        state = "abandoned" if self._abandoned else "closed" if self._selector is None else "open"
        return f"<Mailbox: {state}, {len(self._notes)} notes>"

    def __len__(self) -> int:
        return len(self._notes)

    # -- for everybody

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have the loop call ``function(*args)`` at its next turn, if one runs."""
        self.note(function, args)
        self.wake()

    def note(
        self, function: Callable[..., object], args: tuple[Any, ...], asks: bool = False
    ) -> None:
        """The same, and leave it to the caller to wake the loop.

        :param asks: whether a loop that ends just now is to be started again for it.
        """
        self._notes.append((asks, function, *args))

    def wake(self) -> None:
        """End the loop's sleep, now or before it begins."""
        sender = self._sender
        if self._awake or sender is None or os.getpid() != self._pid:
            return
        try:
            self._awake = True
            if self._asleep:  # looked at afterwards, as the loop looks whether it is awake
                self._rung = True
                sender.send(b"\0")
        except OSError:
            # Closed by the loop's end; or full, and then the loop is awake anyway.
            self._awake = False
        except BaseException:
            self._awake = False  # such as what a signal handler raises
            raise

    @property
    def asked(self) -> bool:
        """Whether there is a note that somebody waits for."""
        for index in range(len(self._notes)):
            try:
                if self._notes[index][0]:
                    return True
            except IndexError:
                return False  # read meanwhile
        return False

    def is_read_here(self) -> bool:
        """Whether the caller is the loop, which must not wait for itself."""
        return self._reader == threading.get_ident()

    # -- for the loop

    def read(self) -> bool:
        """Call what was posted, and what is due; return whether somebody waits for some of it."""
        self._reader = threading.get_ident()
        notes, asked = self._notes, False
        for _ in range(min(len(notes), BATCH)):
            asks, function, *args = notes.popleft()
            asked = asked or asks
            try:
                function(*args)
            except Exception:
                _log_failure(function, args)
        while self._later and self._later[0][0] <= monotonic():
            _, _, function, later = heapq.heappop(self._later)
            try:
                function(*later)
            except Exception:
                _log_failure(function, later)
        return asked

    def later(self, seconds: float, function: Callable[..., object], *args: Any) -> None:
        """Have ``function(*args)`` called in the turn that is due in *seconds*."""
        due = monotonic() + seconds
        heapq.heappush(self._later, (due, next(self._numbers), function, args))

    def wait(self, timeout: float | None = None, busy: bool = False) -> list[Source]:
        """Sleep until there is a note or something to read, and return what is to be read.

        :param timeout: seconds at most; None: no limit; 0: the caller has more to do, and lets
            others run in between.
        :param busy: much has come just now, and more is to be expected.
        :raises Abandoned: in a child of the process that sleeps here.
        """
        selector = self._opened()
        if busy or (timeout is not None and timeout <= 0):
            self._library.see_to_sockets()
        if self._later:
            rest = self._later[0][0] - monotonic()
            timeout = rest if timeout is None else min(timeout, rest)
        try:
            self._asleep = True
            if self._notes or self._awake:
                timeout = 0
            ready = [
                key.data for key, _ in selector.select(None if timeout is None else max(timeout, 0))
            ]
        finally:
            self._asleep = False
        self.look()
        if None in ready:
            ready.remove(None)
            self._rung = True
        self._clear()
        return ready

    def look(self) -> None:
        """Look whether this is still the process that the loop is of.

        :raises Abandoned: where it is not.
        """
        if self._abandoned or os.getpid() != self._pid:
            raise Abandoned

    def register(self, source: Source) -> None:
        """Have :meth:`wait` return *source* whenever there is something to read."""
        self._opened().register(source, selectors.EVENT_READ, source)

    def unregister(self, source: Source) -> None:
        """The opposite; to be called before *source* is closed. Without effect where it is not."""
        if self._selector is not None:
            with suppress(KeyError, ValueError):
                self._selector.unregister(source)

    def _opened(self) -> selectors.BaseSelector:
        """The selector: made by the loop, as it belongs to the loop's own thread."""
        if self._selector is None:
            receiver, sender = socket.socketpair()
            # Not blocking, so that a green library's send() never switches.
            receiver.setblocking(False)
            sender.setblocking(False)
            selector = self._library.selector()
            selector.register(receiver, selectors.EVENT_READ, None)
            self._selector, self._receiver, self._sender = selector, receiver, sender
        return self._selector

    def _clear(self) -> None:
        if self._rung and self._receiver is not None:
            self._rung = False
            with suppress(BlockingIOError):
                self._receiver.recv(4096)
        self._awake = False

    def close(self) -> None:
        """The loop has ended: close what it sleeps on, and keep the notes for the next one."""
        self._reader = 0
        if self._abandoned or self._selector is None or self._sender is None:
            return
        selector, receiver, sender = self._selector, self._receiver, self._sender
        self._selector = self._receiver = self._sender = None
        selector.close()
        sender.close()
        if receiver is not None:
            receiver.close()
        self._awake = self._rung = False

    def abandon(self) -> None:
        """This is a child, and the mailbox is its parent's: nobody touches it any more."""
        self._abandoned = True


def _log_failure(function: Callable[..., object], args: Iterable[Any]) -> None:
    logger.exception("A note to the drain loop failed: %r%r", function, tuple(args))
