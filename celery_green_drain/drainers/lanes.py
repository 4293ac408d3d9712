"""Calls to a store: so many at a time, in native threads where they would block all greenlets."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import Any, Protocol

from .signal import Signal
from .slots import PATIENCE, Slots
from .ticket import Ticket

__all__ = ("Lanes", "Outcome")


class Outcome:
    """What a call returned or raised.

    Green libraries report an exception that crosses threads by themselves, so ours cross as this.
    """

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._value: Any = None
        self._error: BaseException | None = None
        try:
            self._value = function(*args)
        except BaseException as exc:  # else nobody would hear of it
            self._error = exc

    def get(self) -> Any:
        """Return it, or raise it."""
        if self._error is not None:
            raise self._error
        return self._value


class _Library(Protocol):
    """What is needed of a green library."""

    def own_signal(self) -> Signal: ...

    def at_home(self) -> bool: ...


class Lanes:
    """Calls functions, *limit* at a time at most.

    :param apart: runs a function in a native thread, and returns what that returns; None: each is
        run by its caller. A caller that is in a native thread already runs it itself, and waits for
        its turn only where there is one lane: not every library can be woken from there at once.
    """

    def __init__(
        self,
        limit: int,
        library: _Library,
        apart: Callable[[Callable[[], Any]], Any] | None = None,
    ) -> None:
        self._limit = limit
        self._library = library
        self._apart = apart
        #: Greenlets and threads in the middle of a call.
        self._inside: set[int] = set()
        self._free = Slots(limit, library.own_signal)
        for _ in range(limit):
            self._give_back()

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return ``function(*args)``; within another call at once, which must not wait for itself.

        :raises TimeoutError: where it has not had its turn after :data:`~.slots.PATIENCE` seconds.
        """
        if self.is_inside():
            return function(*args)
        if self._apart is not None:
            if self._library.at_home():
                return self._run_apart(self._apart, function, *args)
            if self._limit > 1:
                return self._run(function, *args)
        self._take()
        try:
            return self._run(function, *args)
        finally:
            self._give_back()

    def _run_apart(
        self, apart: Callable[..., Any], function: Callable[..., Any], *args: Any
    ) -> Any:
        # As if the caller called it: traces, the ids of requests and the like are in its context.
        run = partial(Outcome, contextvars.copy_context().run, (self._run, function, *args))
        call = _Call(run, self._give_back)
        self._take()
        try:
            outcome: Outcome = apart(call)
        finally:
            call.leave()
        return outcome.get()

    def is_inside(self) -> bool:
        """Whether the caller is in the middle of a call."""
        return threading.get_ident() in self._inside

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        here = threading.get_ident()
        self._inside.add(here)
        try:
            return function(*args)
        finally:
            self._inside.discard(here)

    def _take(self) -> None:
        try:
            self._free.get(timeout=PATIENCE)
        except Empty:
            raise TimeoutError(
                f"None of {self._limit} calls to the result store has ended within {PATIENCE:g} s, "
                "so this one cannot be made: it is overloaded, or its driver hangs."
            ) from None

    def _give_back(self) -> None:
        self._free.put_nowait(None)


class _Call:
    """A call in a native thread, which goes on where its caller is killed.

    :param over: called by who is the last of both. The caller, if it waits to the end: from another
        thread it could not wake the next one of every library.
    """

    def __init__(self, function: Callable[[], Any], over: Callable[[], object]) -> None:
        self._function = function
        self._over = over
        self._begin, self._first_to_go = Ticket(), Ticket()

    def __call__(self) -> Any:
        """In the native thread."""
        if not self._begin.take():
            return None  # the caller has left before
        try:
            return self._function()
        finally:
            self._go()

    def leave(self) -> None:
        """The caller waits no more."""
        if self._begin.take():
            self._over()
        else:
            self._go()

    def _go(self) -> None:
        if not self._first_to_go.take():
            self._over()
