"""What is pending: a result, with the waits and callbacks that it is to serve, and a wait.

They ask the drain loop through ``ResultConsumer.want()`` and ``drop()``, which take no lock:
finalisers call them too. The loop has all of them in its :class:`~.table.PendingTable`.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Optional, Protocol

from celery import states
from vine.abstract import Thenable

from .clock import monotonic
from .copies import own_error
from .drainers.base import Drainer
from .internals import as_text, known, learn
from .lateness import timed_out
from .promises import Callback, Loop, Promise, Waiter, known_failure
from .quoting import quoted

__all__ = (
    "UNREADABLE",
    "Arrival",
    "Consumer",
    "EndWait",
    "InboxWait",
    "Meta",
    "PendingResult",
    "Read",
    "Wait",
    "deadline",
)

logger = logging.getLogger(__name__)

#: What a store keeps of a task: ``task_id``, ``status``, ``result``, ``traceback``, …
Meta = dict[str, Any]

#: Reads a state, anew each time: who gets it may change it.
Read = Callable[[], Meta]

#: States on the way that may wait for an ``on_message`` that is slow.
INBOX = 100_000

#: In a :data:`Meta` of our own: whether its ``result`` is why the task's own cannot be read.
UNREADABLE = "unreadable"

#: What came to an :class:`InboxWait`: whose, and the state; None: this result is ready.
Arrival = tuple["PendingResult", Optional[Meta]]


def deadline(timeout: float | None) -> float | None:
    """When *timeout* seconds from now are over, by the monotonic clock; None: never.

    :raises ValueError: where it is not a number. A timer of that length would keep a hub, with all
        that run in it, from ever looking at its other timers.
    """
    if timeout is None:
        return None
    if math.isnan(timeout):
        raise ValueError(f"timeout = {timeout!r}: expected a number of seconds, or None.")
    return None if timeout == math.inf else monotonic() + float(timeout)  # may be a Decimal


class Inbox(Protocol):
    """Where an :class:`InboxWait` finds what has come: a deque, or what knows what to leave out.

    The drain loop appends, and the waiter takes out, each perhaps in a thread of its own.
    """

    def append(self, arrival: Arrival, /) -> None: ...

    def popleft(self) -> Arrival: ...

    def __len__(self) -> int: ...


class Table(Protocol):
    """What is known in the drain loop."""

    def state(self, task_id: str) -> str | None:
        """The latest state of a task that has not ended; None: none was seen. For everybody."""


class Consumer(Loop, Protocol):
    """What waits and pending results need of a result consumer."""

    @property
    def drainer(self) -> Drainer: ...

    @property
    def table(self) -> Table: ...

    def want(self, pending: PendingResult, wait: Wait | None = None) -> None: ...

    def drop(self, pending: PendingResult) -> None: ...

    def cannot_read(self, task_id: str, exc: Exception) -> None: ...

    def timed_out(self) -> None: ...


class Wait(Waiter):
    """One caller that waits, with a signal of its own."""

    __slots__ = ("_began", "_consumer", "_error", "_signal")

    #: Whether states on the way are wanted, or the end only; and whether each of them, or of those
    #: that come at once only the newest.
    messages: bool
    each: bool

    def __init__(self, consumer: Consumer) -> None:
        self._began = monotonic()
        self._consumer = consumer
        self._error: Exception | None = None
        self._signal = consumer.drainer.signal()

    def add(self, pending: PendingResult) -> None:
        """Wait for *pending* as well."""
        if self.messages:
            pending.followed = True
        pending.audience.append(self)
        if pending.ready:
            self.put(pending, None)
        else:
            # Asked for after the wait is listed, so that no drop under way overlooks it.
            pending.loop.want(pending, self)

    def tell(self, pending: PendingResult, read: Read, own: Read) -> None:
        """A state on the way has come.

        :param read: what reads it.
        :param own: what gives the one that this wait may keep.
        """

    def interrupt(self, error: Exception) -> None:
        """End the wait with *error*, which is its own, unless it was interrupted before."""
        if self._error is None:
            self._error = error
        self._signal.set()

    def _interruption(self, error: Exception) -> Exception:
        # What is raised is kept nowhere, or its traceback would keep the frames of who waits.
        self._error = own_error(error)
        return error

    def _sleep(self, deadline: float | None, tick: float | None = None) -> bool:
        """Sleep until something may have come, or the time is up; False after *tick* seconds.

        :raises celery.exceptions.TimeoutError: at *deadline*.
        :raises DrainerStopped: when the drainer is stopped.
        """
        if self._error is not None:
            raise self._interruption(self._error)
        if self._signal.ready:
            # The new one is in place before anybody looks again: what comes from now on is
            # seen then, or sets it.
            self._signal = self._consumer.drainer.signal()
            return True
        rest = tick
        if deadline is not None:
            left = deadline - monotonic()
            if left <= 0:
                self._consumer.timed_out()
                raise self._timed_out()
            rest = left if tick is None else min(left, tick)
        return self._signal.wait(rest) or rest != tick

    def _timed_out(self) -> TimeoutError:
        missing = [pending for pending in self._waited_for() if not pending.ready]
        first = missing[0] if missing else None
        state = None if first is None else first.table.state(first.task_id)
        drainer = (self._consumer if first is None else first.loop).drainer
        ids = [pending.task_id for pending in missing]
        error: TimeoutError = timed_out(ids, state, drainer, monotonic() - self._began)
        return error

    def _waited_for(self) -> Iterable[PendingResult]:
        raise NotImplementedError("subclass responsibility")

    def close(self) -> None:
        """Wait no more. What nobody else wants is dropped."""
        for pending in self._waited_for():
            pending.leave(self)
            if not (pending.ready or pending.wanted):
                pending.loop.drop(pending)


class EndWait(Wait):
    """For the end of one result: what most calls come to, and thousands at once.

    It has no more than that takes, as its memory is what costs time when they wake.
    """

    __slots__ = ("_pending",)

    messages = each = False

    def __init__(self, consumer: Consumer, pending: PendingResult) -> None:
        super().__init__(consumer)
        self._pending = pending

    def _waited_for(self) -> Iterable[PendingResult]:
        return (self._pending,)

    def put(self, pending: PendingResult, meta: Meta | None) -> None:
        self._signal.set()

    def end(self, deadline: float | None) -> None:
        """Return when the result is ready; raises as :meth:`InboxWait.next` does."""
        pending = self._pending
        try:
            self.add(pending)
            while not pending.ready:
                self._sleep(deadline)
        except BaseException:
            self.close()
            raise
        if pending.audience:  # mostly it was told, and there is nobody left to be told
            pending.leave(self)


class InboxWait(Wait):
    """For some results, one after the other, and for their states on the way.

    :param messages: whether those are wanted.
    :param inbox: for what arrives, in place of a deque, which keeps all of it.
    """

    __slots__ = ("_inbox", "_pending", "_rest", "_told", "_told_of_skipping", "each", "messages")

    def __init__(
        self, consumer: Consumer, messages: bool = False, inbox: Inbox | None = None
    ) -> None:
        super().__init__(consumer)
        self.messages = messages
        self.each = messages and inbox is None
        self._inbox: Inbox = deque() if inbox is None else inbox
        self._pending: list[PendingResult] = []
        #: Whether the log has told that some were left out.
        self._told_of_skipping = False
        #: How many have come in time, of those that are kept few of; None: it is not over.
        self._rest: int | None = None
        #: What reads the state that was told last.
        self._told: dict[PendingResult, Read] = {}

    def _waited_for(self) -> Iterable[PendingResult]:
        return self._pending

    def add(self, pending: PendingResult) -> None:
        self._pending.append(pending)
        super().add(pending)

    def tell(self, pending: PendingResult, read: Read, own: Read) -> None:
        # Once: who joins while it is handed over would be told again.
        if self._told.get(pending) is not read:
            self._told[pending] = read
            self.put(pending, own())

    def put(self, pending: PendingResult, meta: Meta | None) -> None:
        arrival = pending, meta
        if self.each and len(self._inbox) >= INBOX and not _is_end(arrival):
            self._skip(pending)
            return
        self._inbox.append(arrival)
        self._signal.set()

    def _skip(self, pending: PendingResult) -> None:
        """It is handled more slowly than it comes, and there is no room for more of it."""
        if not self._told_of_skipping:
            self._told_of_skipping = True
            logger.warning(
                "on_message is slower than the states of task %s come: %d wait for it, and it is "
                "not called for further ones while there is no more room.",
                quoted(pending.task_id),
                INBOX,
            )

    def next(self, deadline: float | None = None, tick: float | None = None) -> Arrival | None:
        """Return what comes next, or None after *tick* seconds of silence.

        :param deadline: when to give up, by the monotonic clock; None: never. What has ended by
            then is returned all the same, as the caller may have been elsewhere, and of states on
            the way the newest, where those are wanted.
        :raises celery.exceptions.TimeoutError: then.
        :raises DrainerStopped: when the drainer is stopped.
        """
        while True:
            arrival = self._arrived(deadline)
            if arrival is not None or not self._sleep(deadline, tick):
                return arrival

    def _arrived(self, deadline: float | None) -> Arrival | None:
        """What has come, but for states on the way that have come after *deadline*.

        They might come faster than they are handled, and put it off for ever.
        """
        while self._inbox:
            overdue = deadline is not None and monotonic() >= deadline
            if overdue and self._rest is None:
                self._rest = 0 if self.each else len(self._inbox)
            arrival = self._inbox.popleft()
            if not overdue or _is_end(arrival):
                return arrival
            if self._rest:
                self._rest -= 1
                return arrival
        return None


@Thenable.register
class PendingResult(Promise):
    """What one ``AsyncResult`` has to serve until it is ready: its waits and callbacks.

    It is in one of these states:

    *idle*
        Nobody asks for it: not ready, no waits, not served.
    *wanted*
        Somebody is in ``get()`` for it (``waits``), or it is to call back and its result lives. The
        loop has it in its table as soon as it has read the note (``since``).
    *ready*
        For good: its result knows its last state, or ``error`` says why it cannot be read. The loop
        unlists it with its next note.
    *forgotten*
        Like idle, and its callbacks are gone.
    """

    __slots__ = ("_served", "followed", "since", "table", "task_id", "weak")

    loop: Consumer

    def __init__(self, result: Any, consumer: Consumer) -> None:
        super().__init__(result, consumer)
        self.task_id = as_text(result.id)
        #: Where it belongs. After a fork the child has a table of its own.
        self.table: Table = consumer.table
        #: Since when it stands in that table, by the monotonic clock; 0: it does not. Set by the
        #: drain loop alone.
        self.since = 0.0
        #: Whether somebody has asked for its states on the way.
        self.followed = False
        #: Whether callbacks are not to keep the result alive.
        self.weak = False
        self._served = False

    @property
    def waits(self) -> list[Wait]:
        """Who is in ``get()`` or the like for it, in order."""
        return list(filter(_is_wait, self.audience.copy()))

    @property
    def calls_back(self) -> bool:
        """Whether it has callbacks to serve, and its result lives."""
        return self._served and self._ref() is not None

    @property
    def wanted(self) -> bool:
        """Whether somebody still asks for it."""
        if self.calls_back:
            return True
        # Not all of them, as thousands may wait for one result, and each that comes or goes asks.
        return any(map(_is_wait, self.audience.copy()))

    def serve(self, keep: bool) -> None:
        result = self._ref()
        if getattr(result, "ignored", False):
            logger.warning(
                "Task %s ignores its result, so no callback will be called for it.",
                quoted(self.task_id),
            )
            return
        before = self._served, self._keep
        if keep and not self.weak:
            self._keep = result
        self._served = True
        try:
            self.loop.want(self)
        except BaseException:
            self._served, self._keep = before
            raise

    @property
    def kinds(self) -> list[str]:
        """How it is waited for: ``get``, ``watch`` (all that asks for each state), ``then``,
        ``group``."""
        return sorted({_kind(who) for who in self.audience.copy()})

    def forget(self) -> None:
        """The result was forgotten, or is being finalised: neither lock nor switch."""
        self._keep = None
        self._dismiss(Callback)
        self._serve_no_more()

    def cancel(self) -> None:
        super().cancel()
        self._serve_no_more()

    def _serve_no_more(self) -> None:
        if self._served or self.since:
            self._served = False
            self.loop.drop(self)

    def __call__(self, result: Any) -> None:
        """The result is ready: what ``AsyncResult`` calls, whoever found it out."""
        if not self.ready:
            self._finish(result)

    def resolve(self, meta: Meta | None, read: Read) -> None:
        """The result has come, with the last state *meta*, to keep; None: it is to be read.

        :param read: reads it anew, for further ones.
        """
        result = self._ref()
        if result is None or self.ready:
            return
        followers = [wait for wait in self.waits if wait.messages] if self.followed else []
        try:
            if meta is None:
                meta = read()
            others = [read() for _ in followers[1:]] if followers else ()
            # A copy, as reading a result rebuilds its children in place.
            learn(result, dict(meta) if followers else meta)
        except Exception as exc:
            # Such as children that are none, or an exception class that is refused.
            self.loop.cannot_read(self.task_id, exc)
            self.fail(exc)
            return
        if followers:
            for wait, state in zip(followers, (meta, *others)):
                wait.put(self, state)
        self._finish(result)
        if result.on_ready is not self:  # somebody has put another promise in its place
            self.loop.call(result.on_ready, result)

    def fail(self, error: Exception) -> None:
        """The result cannot be read, or will never come."""
        if not self.ready:
            self.error = own_error(error)
            self._finish(self._ref())

    def check(self) -> None:
        """:raises Exception: what has made the result unreadable, if something did: to keep."""
        if self.error is not None:
            raise self._give(self.error)

    def _give(self, error: Exception) -> Exception:
        # As above: the one that stays is a copy.
        self.error = own_error(error)
        return error

    @property
    def last(self) -> Meta | None:
        """The last state; None: it is not ready, or was forgotten.

        A result that cannot be read is a failure.
        """
        if self.error is not None:
            return {
                "task_id": self.task_id,
                "status": states.FAILURE,
                "result": own_error(self.error),
                UNREADABLE: True,
            }
        result = self._ref()
        meta: Meta | None = None if result is None else known(result)
        return meta

    def _finish(self, result: Any) -> None:
        self.ready = True  # before the list is read: who adds to it looks at it afterwards
        self._keep = None
        try:
            self._tell_all(result)
        except Exception:
            logger.exception("Not all who wait for %s could be told.", self.name(result))
        if self.since:
            self.loop.drop(self)

    def _error(self, result: Any) -> BaseException | None:
        return known_failure(result) if self.error is None else self.error

    def name(self, result: Any) -> str:
        return f"task {quoted(self.task_id)}"


def _is_wait(who: Any) -> bool:
    return isinstance(who, Wait)


def _is_end(arrival: Arrival) -> bool:
    _, meta = arrival
    return meta is None or meta["status"] in states.READY_STATES


def _kind(who: Any) -> str:
    if isinstance(who, Wait):
        return "watch" if who.messages else "get"
    return "then" if isinstance(who, Callback) else "group"
