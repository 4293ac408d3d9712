"""What a green library brings for a drainer: how to run, wait, sleep and call."""

from __future__ import annotations

import contextvars
import selectors
from collections.abc import Callable
from typing import Any, ClassVar

from .lanes import Lanes
from .signal import Signal

__all__ = ("Library",)


class Library:
    """The primitives of one green library. A drainer is one, and adds the life of the loop."""

    #: The name in Celery's registry, and the value of ``result_drainer``.
    name: ClassVar[str] = ""

    #: What its own timeouts raise, as far as that is no :exc:`Exception`.
    timeouts: ClassVar[tuple[type[BaseException], ...]] = ()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        #: Calls that have not ended. Changed in any thread, so nothing is counted.
        self._calls: dict[object, None] = {}

    @classmethod
    def problem(cls) -> str | None:
        """Why this drainer cannot serve in this process, with the remedy; None if it can."""
        return None

    def spawn(self, function: Callable[..., object], *args: Any) -> object:
        """Run ``function(*args)`` beside the caller, in the drainer's own thread."""
        raise NotImplementedError("subclass responsibility")

    def spawn_apart(self, function: Callable[..., object], *args: Any) -> object:
        """The same for what serves everybody: not in the context of who happens to be the first.

        Otherwise the loop would be part of the trace of the first request, for ever.
        """
        return contextvars.Context().run(self.spawn, function, *args)

    def lives(self, spawned: Any) -> bool:
        """Whether what :meth:`spawn` made runs, or will. One that is killed first never does."""
        return True

    def when_over(self, spawned: Any, function: Callable[[Any], object]) -> None:
        """Have ``function(spawned)`` called when what :meth:`spawn` made is over.

        For where it may be killed before it runs; it must not wait.
        """

    def discard(self, spawned: Any) -> None:
        """Let what :meth:`spawn` made in the parent never run on in this child."""

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Like :meth:`spawn`, for what rarely waits: until it does, others may share its greenlet.

        :raises RuntimeError: where no thread can be started for it.
        """
        token = object()
        self._calls[token] = None
        try:
            self.spawn(self._called, token, function, args)
        except RuntimeError:
            del self._calls[token]
            raise

    def _called(
        self, token: object, function: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        try:
            function(*args)
        finally:
            del self._calls[token]

    @property
    def calls(self) -> int:
        """How many of those have not ended, for the end of the process to wait for."""
        return len(self._calls)

    def is_local(self) -> bool:
        """Whether the caller may use :meth:`spawn`: it is in the thread that greenlets run in."""
        return True

    def signal(self) -> Signal:
        """A signal for the caller to wait on."""
        raise NotImplementedError("subclass responsibility")

    def sleep(self, seconds: float) -> None:
        """Let others run, for *seconds* at least."""
        raise NotImplementedError("subclass responsibility")

    def selector(self) -> selectors.BaseSelector:
        """A selector whose ``select()`` blocks the caller alone."""
        raise NotImplementedError("subclass responsibility")

    def see_to_sockets(self) -> None:
        """See that those who wait for a socket or a timer have their turn as well, when the caller
        lets others run or waits next. For where the library would not by itself.
        """

    @classmethod
    def at_home(cls) -> bool:
        """Whether the caller is in the native thread where greenlets live: the main one."""
        return True

    @classmethod
    def shares_sockets(cls) -> bool:
        """Whether the caller may use sockets that others have opened who may, and they its own."""
        return True

    @classmethod
    def own_signal(cls) -> Signal:
        """A signal where there is no drainer: to be set by callers of the same library."""
        raise NotImplementedError("subclass responsibility")

    @classmethod
    def lanes(cls, limit: int, native: bool = False) -> Lanes:
        """Return what calls *limit* functions at a time at most.

        :param native: in native threads, for what would block all greenlets of the process.
        """
        return Lanes(limit, cls)
