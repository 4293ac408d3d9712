"""The life of a drain loop, and what each green library must bring for it.

A drainer knows no protocol: it turns ``result_consumer.drain_events()`` over and
over, in one greenlet (or thread), until it is stopped. What fails there is logged
and tried again; nothing but :meth:`Drainer.stop` ends the loop for good.
"""

from __future__ import annotations

import logging
import random
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from celery.backends import asynchronous

__all__ = ("Backoff", "Drainer", "Lanes", "Outcome", "Signal")

logger = logging.getLogger(__name__)

#: Seconds that :meth:`Drainer.stop` waits at most for the loop to end, unless told otherwise.
STOP_TIMEOUT = 10.0

#: Seconds that a connection must have held to count as back: a server that is just starting
#: accepts connections and refuses commands.
STEADY = 1.0

#: Longest pause, in seconds, where the server refuses us: who begins to wait is to hear of it.
REFUSED = 1.0

#: Seconds a result consumer may take for one turn where nothing arrives.
TURN = 1.0


#: What :meth:`Drainer.lanes` returns.
Lanes = Callable[..., Any]


class Signal(Protocol):
    """Wakes one waiter, once. It may be set from any thread, before or during the wait."""

    @property
    def ready(self) -> bool:
        """Whether it has been set."""

    def set(self) -> None:
        """Wake the waiter. Further calls have no effect. Never blocks, never switches."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until set, at most *timeout* seconds; return whether it was set."""


class Outcome:
    """What a call returned or raised.

    Green libraries report an exception that crosses threads by themselves, so ours cross as this.
    """

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._value: Any = None
        self._error: Exception | None = None
        try:
            self._value = function(*args)
        except Exception as exc:
            self._error = exc

    def get(self) -> Any:
        """Return it, or raise it."""
        if self._error is not None:
            raise self._error
        return self._value


@dataclass(frozen=True)
class Backoff:
    """How long to pause after so many failures in a row."""

    #: Seconds after the first failure; doubled with each further one.
    first: float = 0.1

    #: Longest pause, in seconds.
    longest: float = 30.0

    def pause(self, failures: int, jitter: Callable[[], float] = random.random) -> float:
        """Seconds to pause after *failures* failures: half of it is fixed, half is chance."""
        full = min(self.longest, self.first * 2.0 ** min(failures - 1, 32))
        return full * (1 + jitter()) / 2


class Drainer(asynchronous.Drainer):  # type: ignore[misc]
    """Base of the drainers: one loop that drains one result consumer.

    A subclass brings the primitives of its library (:meth:`spawn`, :meth:`signal`,
    :meth:`sleep`, :meth:`selector`, :meth:`lanes`, :meth:`discard`, :meth:`problem`) and
    registers itself with :func:`celery.backends.asynchronous.register_drainer`.

    :param result_consumer: anything with Celery's ``drain_events(timeout)``.
    """

    #: The name in Celery's registry, and the value of ``result_drainer``.
    name: ClassVar[str] = ""

    def __init__(self, result_consumer: Any) -> None:
        super().__init__(result_consumer)
        settings = getattr(result_consumer, "settings", None)
        self.backoff = Backoff(longest=settings.retry_max) if settings else Backoff()
        #: What :meth:`spawn` made of the loop: a greenlet or a thread.
        self.loop: object = None
        self._lock = threading.Lock()
        self._running = False
        self._stopping = False
        self._retired = False
        self._abandoned = False
        self._ended = self._broadcast()
        self._nap: Signal | None = None
        self._turned = self._broadcast()
        self._failures = 0
        self._refused = False
        self._lost_at = 0.0
        self._back_at: float | None = None

    # -- what a green library brings

    @classmethod
    def problem(cls) -> str | None:
        """Why this drainer cannot serve in this process, with the remedy; None if it can."""
        return None

    def spawn(self, function: Callable[..., object], *args: Any) -> object:
        """Run ``function(*args)`` beside the caller, in the drainer's own thread."""
        raise NotImplementedError("subclass responsibility")

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """The same for what rarely waits: until it does, others may share its greenlet."""
        self.spawn(function, *args)

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

    @classmethod
    def lanes(cls, limit: int, native: bool = False) -> Lanes:
        """Return ``call(function, *args)``, which calls *limit* functions at a time at most.

        :param native: in native threads, for what would block all greenlets of the process.
        """
        free = threading.BoundedSemaphore(limit)

        def call(function: Callable[..., Any], *args: Any) -> Any:
            with free:
                return function(*args)

        return call

    def discard(self, spawned: Any) -> None:
        """Let what :meth:`spawn` made in the parent never run on in this child."""

    # -- life

    def start(self) -> None:
        """Start the loop, after :meth:`stop` anew. Without effect where it runs, or is retired."""
        if self._running or self._retired:
            return
        with self._lock:
            if self._running:
                return
            self._settle()
            self._running, self._stopping = True, False
            self._ended = self._broadcast()
            try:
                self.loop = self.spawn(self.run)
            except BaseException:
                self._running = False
                raise

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """End the loop, and wait for its end, *timeout* seconds at most.

        Who still waits gets :exc:`~celery_green_drain.DrainerStopped`. Callbacks stay
        registered, and are served after the next :meth:`start`. Further calls have no effect.
        """
        ended = self._ended
        if self._running:
            self.ask_to_stop()
            ended.wait(timeout)

    def ask_to_stop(self) -> None:
        """Let the loop end at its next turn. Neither waits nor switches, so finalisers may."""
        self._stopping = True
        nap = self._nap
        if nap is not None:
            nap.set()
        wake = getattr(self.result_consumer, "wake", None)
        if wake is not None:
            wake()

    def retire(self) -> None:
        """Let the loop end, as :meth:`ask_to_stop` does, and never start again."""
        # A flag of its own, as a start() under way would clear the other.
        self._retired = True
        self.ask_to_stop()

    @property
    def _ending(self) -> bool:
        return self._stopping or self._retired

    def abandon(self) -> None:
        """Forget the loop without touching what it holds: it belongs to the process that forked."""
        self._abandoned = self._stopping = True
        self.discard(self.loop)

    def run(self) -> None:
        """The loop itself: what :meth:`start` spawns."""
        try:
            while not self._ending:
                self.turn()
        finally:
            self._finish()

    def turn(self, timeout: float = TURN) -> None:
        """Drain once. A failure is logged, waited out, and raised to nobody."""
        try:
            self.result_consumer.drain_events(timeout=timeout)
        except socket.timeout:
            pass  # nothing came: Celery's own consumers say it so
        except Exception as exc:
            if not self._ending:
                self._failed(exc)
            return
        if self._failures and getattr(self.result_consumer, "connections", True):
            self._hold()
        turned, self._turned = self._turned, self._broadcast()
        turned.set()

    def _finish(self) -> None:
        if self._abandoned:
            return
        ended, stopped = self._ended, self._ending
        try:
            finished = getattr(self.result_consumer, "on_drainer_end", None)
            if finished is not None:
                finished(stopped=stopped)
        finally:
            # Not before, or what is still done in this loop would start the next one.
            self._running = False
            if not stopped and not sys.is_finalizing():
                logger.warning("The result drainer was killed; starting it again.")
                self.start()
            elif getattr(self.result_consumer, "asked", False):
                self.start()  # by another thread, just now
            ended.set()
            self._turned.set()

    def _failed(self, exc: Exception) -> None:
        self._failures += 1
        self._back_at = None
        if self._failures == 1:
            self._lost_at = time.monotonic()
            expected = isinstance(exc, getattr(self.result_consumer, "connection_errors", OSError))
            logger.warning(
                "Lost the connection that results come over, reconnecting until it is back: %s: %s",
                type(exc).__name__,
                str(exc).partition("\n")[0],
                exc_info=None if expected else exc,
            )
        pause = self.backoff.pause(self._failures)
        if isinstance(exc, getattr(self.result_consumer, "refusals", ())):
            pause = min(pause, REFUSED)
            if not self._refused:
                self._refused = True
                logger.error(
                    "The server refuses the connection that results come over, which is told to "
                    "all who wait: %s: %s",
                    type(exc).__name__,
                    exc,
                )
        self._nap = nap = self.signal()
        if not self._ending:
            nap.wait(pause)
        self._nap = None

    def _hold(self) -> None:
        """It works again. If that lasts, the failures are over."""
        now = time.monotonic()
        if self._back_at is None:
            self._back_at = now
        if now - self._back_at >= STEADY:
            logger.warning(
                "The connection that results come over is back after %.1f s (%d attempts).",
                self._back_at - self._lost_at,
                self._failures,
            )
            self._failures = 0
            self._refused = False

    def _settle(self) -> None:
        """Choose where the loop is to live, before it is spawned."""

    # -- Celery's interface for waiting, for consumers that are not ours

    def wait_for(self, p: Any, wait: Any = None, timeout: float | None = None) -> None:
        """Wait for the end of a turn, *timeout* seconds at most, unless *p* is ready."""
        turned = self._turned
        self.start()
        if not p.ready:
            turned.wait(timeout)

    def drain_events_until(
        self,
        p: Any,
        timeout: float | None = None,
        interval: float = 1,
        on_interval: Callable[[], object] | None = None,
        wait: Any = None,
    ) -> Iterator[None]:
        """Yield after each turn until *p* is ready.

        :param timeout: seconds in all; None: no limit.
        :param interval: seconds a turn may take before ``on_interval`` is called all the same.
        :raises socket.timeout: when *timeout* seconds have passed first.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not p.ready:
            rest = interval
            if deadline is not None:
                rest = min(interval, deadline - time.monotonic())
                if rest <= 0:
                    raise socket.timeout()
            self.wait_for(p, wait, timeout=rest)
            yield
            if on_interval:
                on_interval()

    def _broadcast(self) -> _Broadcast:
        return _Broadcast(self)


class _Broadcast:
    """Wakes all that wait, once: made of one signal each."""

    def __init__(self, drainer: Drainer) -> None:
        self._drainer = drainer
        self._waiting: list[Signal] = []
        self._set = False

    def set(self) -> None:
        self._set = True
        for signal in list(self._waiting):
            signal.set()

    def wait(self, timeout: float | None) -> None:
        signal = self._drainer.signal()
        self._waiting.append(signal)
        if not self._set:
            signal.wait(timeout)
