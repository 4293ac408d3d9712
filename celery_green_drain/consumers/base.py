"""What all result consumers share: the table of pending results, and the ways into it."""

from __future__ import annotations

import logging
import os
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from .. import drainers
from ..drainers.base import Drainer
from ..errors import DrainerStopped, ResultNeverCame
from ..pending import Meta, PendingResult, PendingTable, Wait
from ..settings import Settings

__all__ = ("ResultConsumer", "Statistics")

logger = logging.getLogger(__name__)


#: Seconds until the next attempt where no thread could be started for a callback.
LACK = 0.05


@dataclass(frozen=True)
class Statistics:
    """What a result consumer has done in this process, and what it holds now."""

    #: The drainer that serves, by its class; None: nobody has waited yet.
    drainer: str | None
    #: Task ids that somebody waits for.
    pending: int
    #: Results handed to those who wait.
    delivered: int
    #: Messages that could not be read.
    unreadable: int
    #: Connections that the drainer holds.
    connections: int
    #: Times that they were opened.
    connects: int
    #: Results that were dropped, as too many came that nobody had asked for. Only where they come
    #: over a message queue.
    evicted: int


class ResultConsumer(ABC):
    """Turns what arrives from one store into results, inside of a drain loop.

    :meth:`want`, :meth:`drop` and :meth:`call` may be used from any greenlet or thread, and
    :meth:`drop` from finalisers: they only leave a note for the loop, which alone touches the
    table and the connections. The signature is that of Celery's ``BaseResultConsumer``.
    """

    #: What a lost connection raises, for this protocol.
    connection_errors: tuple[type[BaseException], ...] = (OSError,)

    def __init__(
        self,
        backend: Any,
        app: Any = None,
        accept: Any = None,
        pending_results: Any = None,
        pending_messages: Any = None,
    ) -> None:
        self.settings: Settings = backend.drainer_settings
        # Weak, as a running loop is kept alive by its hub: with the last result and the
        # app the backend goes, and the loop with it.
        self._backend = weakref.ref(backend, self._orphaned)
        self._begin()
        _consumers.add(self)

    def _begin(self) -> None:
        """Start with nothing: at first, and in the child after a fork."""
        self.table = PendingTable()
        self._notes: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._chosen: dict[str, Drainer] = {}
        self._delivered = 0
        self._unreadable = 0
        self._connects = 0

    @property
    def evictions(self) -> int:
        """Results that were dropped unasked for."""
        return 0

    @property
    def backend(self) -> Any:
        """The backend; it outlives every turn of the loop but the last."""
        return self._backend()

    @property
    def drainer(self) -> Drainer:
        """The drainer, chosen when it is first needed: the process may be patched by then."""
        if not self._chosen:
            drainer = drainers.choose(self.settings.drainer or "auto")(self)
            # Two threads may choose at once, and setdefault() keeps one of theirs.
            self._chosen.setdefault("drainer", drainer)
        return self._chosen["drainer"]

    @property
    def _drainer(self) -> Drainer | None:
        """The drainer, if one has been chosen."""
        return self._chosen.get("drainer")

    def statistics(self) -> Statistics:
        """Figures for logs, health checks and tests. Cheap; a snapshot."""
        return Statistics(
            drainer=type(self._drainer).__name__ if self._chosen else None,
            pending=len(self.table),
            delivered=self._delivered,
            unreadable=self._unreadable,
            connections=self.connections,
            connects=self._connects,
            evicted=self.evictions,
        )

    # -- for everybody

    def want(self, pending: PendingResult, wait: Wait | None = None) -> None:
        """Have *pending* resolved when its result comes."""
        self.in_loop(self._want, pending, wait)

    def drop(self, pending: PendingResult) -> None:
        """Nobody wants *pending* any more. Takes no lock, and never switches."""
        self._note(self._drop, pending)

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function(*args)`` beside the drain loop."""
        drainer = self.drainer
        if not drainer.is_local():
            self.in_loop(self.call, function, *args)
            return
        try:
            drainer.call(function, *args)
        except RuntimeError as exc:  # no more threads can be started
            logger.warning("A callback has to wait: %s", exc)
            drainer.sleep(LACK)
            self.in_loop(self.call, function, *args)

    def in_loop(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function(*args)`` in the drain loop, at its next turn. It must not block."""
        self._notes.append((function, args))
        # Not after the loop is woken: it might have done this by then, and been stopped since.
        self.drainer.start()
        self.wake()

    def _note(self, function: Callable[..., object], *args: Any) -> None:
        self._notes.append((function, args))
        self.wake()

    @abstractmethod
    def wake(self) -> None:
        """Have the loop look at its notes. Neither blocks nor switches."""

    # -- for the drain loop

    @property
    @abstractmethod
    def connections(self) -> int:
        """How many connections are open."""

    @abstractmethod
    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for something to do, at most *timeout* seconds, and do all of it."""

    @abstractmethod
    def disconnect(self) -> None:
        """Close what is open. Further calls have no effect."""

    @abstractmethod
    def forget_connections(self) -> object:
        """Return what is open, which belongs to another process now, without touching it."""

    def on_drainer_end(self, stopped: bool) -> None:
        """The loop has ended, on request (*stopped*) or because it was killed."""
        self.disconnect()
        if stopped:
            self._read_notes()
            self.table.interrupt(
                DrainerStopped("The result drainer was stopped while this result was waited for.")
            )

    @property
    def asked(self) -> bool:
        """Whether somebody began to wait whom the loop has not noticed yet."""
        return any(function == self._want for function, _ in tuple(self._notes))

    def _read_notes(self) -> None:
        notes = self._notes
        while notes and self.backend is not None:
            function, args = notes.popleft()
            try:
                function(*args)
            except Exception:
                logger.exception("A note to the drain loop failed: %r%r", function, args)

    def _want(self, pending: PendingResult, wait: Wait | None) -> None:
        if self.table.add(pending, wait):
            self.on_wanted(pending.task_id)

    def _drop(self, pending: PendingResult) -> None:
        if self.table.discard(pending):
            self.on_unwanted(pending.task_id)

    def expire(self) -> None:
        """Give up callbacks whose result has not come within ``result_expires``.

        For a loop that is connected: what has come during an outage is to be seen first.
        """
        expires = getattr(self.backend, "expires", None)
        if isinstance(expires, timedelta):  # as databases have it
            expires = expires.total_seconds()
        if not expires:
            return
        overdue = list(self.table.overdue(expires))
        for pending in overdue:
            pending.fail(
                ResultNeverCame(
                    f"No result of task {pending.task_id} has come within result_expires, which "
                    f"is {expires:g} s: the task was not run, or its result got lost."
                )
            )
        if overdue:
            logger.warning(
                "The results of %d tasks have not come within result_expires, which is %g s, the "
                "first one that of task %s. Their callbacks are given up.",
                len(overdue),
                expires,
                overdue[0].task_id,
            )

    def on_wanted(self, task_id: str) -> None:
        """Somebody waits for *task_id* now."""

    def on_unwanted(self, task_id: str) -> None:
        """All that waited for *task_id* have given up."""

    def deliver(self, task_id: str, decode: Callable[[], Meta], stored: bool = False) -> bool:
        """Hand over what came for *task_id*; one that cannot be read fails its own waiters only.

        :return: whether nobody waits for it any more.
        """
        try:
            meta = decode()
            last = self.table.update(task_id, meta, stored)
        except Exception as exc:
            self.cannot_read(task_id, exc)
            self.table.fail([task_id], exc)
            return True
        if last:
            self._delivered += 1
        return last

    def cannot_read(self, task_id: str, exc: Exception) -> None:
        """Count and log what has come for *task_id*."""
        self._unreadable += 1
        # Cut short, as a decoder's message may hold all of what it could not read.
        text = f"{type(exc).__name__}: {exc}"
        logger.error("The result of task %s cannot be read: %.200s", task_id, text)

    # -- the ends of things

    def _orphaned(self, _: object) -> None:
        drainer = self._drainer
        if drainer is not None:
            drainer.retire()

    def after_fork_in_child(self) -> None:
        """Leave to the parent what is the parent's: sockets are neither closed nor written to."""
        if self._drainer is not None:
            self._drainer.abandon()
        _parents.append((self.forget_connections(), self._drainer, self.table))
        self._begin()

    # -- Celery's interface, for what it calls on a consumer

    def start(self, initial_task_id: str | None = None, **kwargs: Any) -> None:
        """Start the drainer. Celery's signature; a task id is of no consequence."""
        self.drainer.start()

    def stop(self) -> None:
        """Stop the drainer, if one runs. See :meth:`Drainer.stop`."""
        if self._drainer is not None:
            self._drainer.stop()

    def consume_from(self, task_id: str) -> None:
        """Do nothing: what is to be consumed is what somebody waits for."""

    def cancel_for(self, task_id: str) -> None:
        """Do nothing: whoever waits for *task_id* cancels by ending its wait."""


_consumers: weakref.WeakSet[ResultConsumer] = weakref.WeakSet()

#: What belongs to the parent, in a child: kept, so that nothing of it is finalised here.
_parents: list[object] = []


def _after_fork_in_child() -> None:
    for consumer in list(_consumers):
        consumer.after_fork_in_child()


# Celery's and kombu's own hooks know billiard's and multiprocessing's forks only.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
