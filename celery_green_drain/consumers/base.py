"""What all result consumers share: the table of pending results, and the ways into it."""

from __future__ import annotations

import logging
import time
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from celery import states
from celery.utils.dispatch import Signal

from .. import __version__, drainers, exits, forks, signals
from ..addresses import result_address
from ..clock import monotonic
from ..copies import own_error
from ..drainers.base import Drainer
from ..drainers.drained import Drained
from ..drainers.mailbox import Mailbox
from ..errors import DrainerStopped, ResultNeverCame
from ..figures import Figures, Statistics
from ..pending import Meta, PendingResult, Wait
from ..quoting import one_line, quoted
from ..settings import Settings
from ..table import PendingTable

__all__ = ("OutOfStep", "ResultConsumer")

logger = logging.getLogger(__name__)


#: Seconds between two looks whether the end of the process has to wait any longer.
LOOK = 0.01

#: Seconds between two looks for callbacks that are overdue.
OVERDUE = 0.5

#: Seconds until the next attempt where no thread could be started for a callback.
LACK = 0.05


class OutOfStep(Exception):
    """Raised where what comes does not fit what was asked: the connection is to be given up."""


class ResultConsumer(Drained):
    """Turns what arrives from one store into results, inside of a drain loop.

    :meth:`want`, :meth:`drop` and :meth:`call` may be used from any greenlet or thread, and
    :meth:`drop` from finalisers: they only leave a note for the loop, which alone touches the
    table and the connections. See :class:`~celery_green_drain.drainers.mailbox.Mailbox` for the
    rules. The signature is that of Celery's ``BaseResultConsumer``.
    """

    def __init__(
        self,
        backend: Any,
        app: Any = None,
        accept: Any = None,
        pending_results: Any = None,
        pending_messages: Any = None,
    ) -> None:
        self.settings: Settings = backend.drainer_settings
        self.retry_max = self.settings.retry_max
        self.exit_timeout = self.settings.exit_timeout
        self._remembered = backend.remembered
        # Weak, as a running loop is kept alive by its hub: with the last result and the
        # app the backend goes, and the loop with it.
        self._backend = weakref.ref(backend, self._orphaned)
        self._begin()
        forks.register(self)
        exits.register(self)

    def _begin(self) -> None:
        """Start with nothing: at first, and in the child after a fork."""
        self.figures = Figures()
        self.table = PendingTable(self.figures)
        self._chosen: dict[str, Drainer] = {}
        #: What the log was told of last: what is drained.
        self._drained = ""
        self._lacking = False
        #: When it was looked last for callbacks that are overdue.
        self._expired = 0.0
        #: Results that callbacks wait for, as the process ends.
        self.given_up = 0
        self._told = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self.table)} tasks pending, {self._drainer!r}>"

    @property
    def evictions(self) -> int:
        """Results that were dropped unasked for."""
        return 0

    @property
    def subscriptions(self) -> int:
        """Channels that are subscribed to, where results come that way."""
        return 0

    @property
    def backend(self) -> Any:
        """The backend; it outlives every turn of the loop but the last."""
        return self._backend()

    @property
    def drainer(self) -> Drainer:
        """The drainer, chosen when it is first needed: the process may be patched by then."""
        if not self._chosen:
            settings = self.settings
            drainer = drainers.choose(settings.drainer or "auto", settings.name_of("drainer"))(self)
            # Two threads may choose at once, and setdefault() keeps one of theirs.
            self._chosen.setdefault("drainer", drainer)
        return self._chosen["drainer"]

    @property
    def _drainer(self) -> Drainer | None:
        """The drainer, if one has been chosen."""
        return self._chosen.get("drainer")

    @property
    def mailbox(self) -> Mailbox:
        """The way into the drain loop."""
        return self.drainer.mailbox

    def statistics(self) -> Statistics:
        """Figures for logs, health checks and tests. Cheap; a snapshot."""
        drainer = self._drainer
        return Statistics(
            on=True,
            drainer=None if drainer is None else type(drainer).__name__,
            running=drainer is not None and drainer.running,
            pending=len(self.table),
            callbacks_pending=self.table.calls,
            oldest=self.table.oldest,
            connections=self.connections,
            subscriptions=self.subscriptions,
            evicted=self.evictions,
            **self.figures.counts(),
        )

    # -- for everybody

    def want(self, pending: PendingResult, wait: Wait | None = None) -> None:
        """Have *pending* resolved when its result comes."""
        # The function itself: a bound one would be one more object of each note.
        self.drainer.ask(type(self)._want, self, pending, wait)

    def drop(self, pending: PendingResult) -> None:
        """Nobody wants *pending* any more. Takes no lock, and never switches."""
        drainer = self._drainer
        if drainer is not None:
            drainer.mailbox.post(self._drop, pending)

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function(*args)`` beside the drain loop."""
        drainer = self.drainer
        if not drainer.is_local():
            self.in_loop(self.call, function, *args)
            return
        try:
            drainer.call(function, *args)
            self._lacking = False
        except RuntimeError as exc:  # no more threads can be started
            if not self._lacking:
                logger.warning("Callbacks have to wait: %s", exc)
            self._lacking = True
            self.in_loop(drainer.mailbox.later, LACK, self.call, function, *args)

    @property
    def failures(self) -> tuple[type[BaseException], ...]:
        # Under green threads sys.exit() would end the main greenlet, and everybody's request.
        return (Exception, SystemExit, *self.drainer.timeouts)

    def in_loop(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function(*args)`` in the drain loop, at its next turn. It must not block."""
        self.drainer.ask(function, *args)

    def timed_out(self) -> None:
        """A wait has ended by its timeout."""
        drainer = self._drainer
        if drainer is not None:
            drainer.mailbox.post(self.figures.timeout)

    def tell(self, signal: Signal, **arguments: Any) -> None:
        """Send *signal*, beside the drain loop, to whoever listens."""
        backend = self.backend
        if backend is None or not signal.receivers:
            return
        arguments.setdefault("at", time.time())
        try:
            self.drainer.call(signals.send, signal, backend.app, arguments, self.failures)
        except RuntimeError as exc:  # no more threads can be started
            logger.warning("The receivers of %s are not told: %s", signal.name, exc)

    # -- for the drain loop

    @property
    @abstractmethod
    def connections(self) -> int:
        """How many connections are open."""

    @property
    def connected(self) -> bool:
        return self.connections > 0

    @abstractmethod
    def disconnect(self) -> None:
        """Close what is open. Further calls have no effect."""

    @abstractmethod
    def forget_connections(self) -> object:
        """Return what is open, which belongs to another process now, without touching it."""

    def on_drainer_start(self) -> None:
        backend = self.backend
        if backend is not None:
            app = backend.app
            self._drained = f"the results of the app {app.main!r} from {self.address}"
            logger.info(
                "celery_green_drain %s: %s drains %s.",
                __version__,
                self.drainer.label,
                self._drained,
            )
            self._tell_of_drainer(signals.drainer_started)

    def on_lost(self, error: str, first: bool) -> None:
        self.figures.lost(error, first)
        if first:
            at = self.figures.lost_at
            self.tell(signals.connection_lost, error=error, address=self.address, at=at)

    def on_back(self, seconds: float, attempts: int) -> None:
        self.tell(
            signals.connection_back,
            seconds=seconds,
            attempts=attempts,
            address=self.address,
            at=self.figures.back(seconds),
        )

    def on_drainer_end(self, stopped: bool) -> None:
        self.disconnect()
        self.figures.connected_since = None
        if stopped:
            if self._drained:
                logger.info("%s no longer drains %s.", self.drainer.label, self._drained)
                self._drained = ""
            while len(self.mailbox) and self.backend is not None:
                self.mailbox.read()
            self.figures.stopped += self.table.interrupt(_stopped)
            self._tell_of_drainer(signals.drainer_stopped)

    def tell_of_refusal(self, error: Exception) -> None:
        """End all waits with *error*: the server refuses us. Callbacks stay, as it may change."""
        self.table.interrupt(lambda _: own_error(error))

    def _tell_of_drainer(self, signal: Signal) -> None:
        self.tell(signal, drainer=self.drainer.label, address=self.address)

    @property
    def address(self) -> str:
        """Where the results come from, without the password."""
        backend = self.backend
        return "" if backend is None else result_address(backend.app)

    def _want(self, pending: PendingResult, wait: Wait | None) -> None:
        backend = self._backend()  # held, or it might go in the middle
        if backend is not None and self.table.add(pending, wait):
            self.on_wanted(pending.task_id)

    def _drop(self, pending: PendingResult) -> None:
        backend = self.backend
        if backend is not None and self.table.discard(pending):
            self.on_unwanted(pending.task_id)

    def expire(self) -> None:
        """Give up callbacks whose result has not come within ``result_expires``.

        For a loop that is connected: what has come during an outage is to be seen first.
        """
        now = monotonic()
        if now - self._expired < OVERDUE:
            return
        self._expired = now
        expires = getattr(self.backend, "expires", None)
        if isinstance(expires, timedelta):  # as databases have it
            expires = expires.total_seconds()
        if not expires:
            return
        overdue = self.table.overdue(expires)
        for pending in overdue:
            self._give_up_on(
                pending,
                f"No result of task {quoted(pending.task_id)} has come within result_expires, "
                f"which is {expires:g} s: the task was not run, or its result got lost.",
            )
        if overdue:
            logger.warning(
                "The results of %d tasks have not come within result_expires, which is %g s, the "
                "first one that of task %s. Their callbacks are given up.",
                len(overdue),
                expires,
                quoted(overdue[0].task_id),
            )

    def _give_up_on(self, pending: PendingResult, why: str) -> None:
        error = ResultNeverCame(why, pending.task_id)
        self.figures.given_up += 1
        pending.fail(error)
        self.tell(signals.result_given_up, task_id=pending.task_id, exception=error)

    def on_wanted(self, task_id: str) -> None:
        """Somebody waits for *task_id* now."""

    def on_unwanted(self, task_id: str) -> None:
        """All that waited for *task_id* have given up."""

    def deliver(self, task_id: str, decode: Callable[[], Meta], stored: bool = False) -> bool:
        """Hand over what came for *task_id*; one that cannot be read fails its own waiters only.

        :return: whether that has ended a wait: somebody waited for it, and nobody does any more.
        """
        try:
            meta = decode()
            if self._remembered is not None and meta["status"] == states.SUCCESS:
                self._remember(task_id, decode)
            last = self.table.update(task_id, meta, decode, stored)
        except OutOfStep:
            raise
        except Exception as exc:
            self.cannot_read(task_id, exc)
            return self.on_unreadable(task_id, exc, stored)
        return last

    def _remember(self, task_id: str, decode: Callable[[], Meta]) -> None:
        # Before anybody has it, who may forget it at once.
        if task_id in self.table:
            self._remembered[task_id] = decode()

    def on_unreadable(self, task_id: str, exc: Exception, stored: bool) -> bool:
        """What came for *task_id* cannot be read; return whether nobody waits for it any more."""
        self.table.fail([task_id], exc)
        return True

    def cannot_read(self, task_id: str, exc: Exception) -> None:
        """Count and log what has come for *task_id*."""
        # In the loop, wherever this was found out: no two threads may count at once.
        if self.mailbox.is_read_here():
            self._count_unreadable()
        else:
            self.mailbox.post(self._count_unreadable)
        logger.error("The result of task %s cannot be read: %s", quoted(task_id), one_line(exc))

    def _count_unreadable(self) -> None:
        self.figures.unreadable += 1

    # -- the ends of things

    def wait_for_callbacks(self, deadline: float) -> None:
        """Wait until none is pending or under way, but not after *deadline*."""
        self._wait_while(lambda: self._calls_to_come or self._calls_under_way, deadline)

    def wait_for_calls(self, deadline: float) -> bool:
        """Wait until none is under way; return whether there is one at *deadline*."""
        self._wait_while(lambda: self._calls_under_way, deadline)
        return bool(self._open_calls)

    def _wait_while(self, condition: Callable[[], bool], deadline: float) -> None:
        if self._drainer is None:
            return
        quiet = 0
        while quiet < 2:  # as the loop may be just between a result and its callbacks
            quiet = 0 if condition() else quiet + 1
            rest = deadline - monotonic()
            if rest <= 0:
                return
            self._drainer.sleep(min(rest, LOOK))

    @property
    def _calls_to_come(self) -> bool:
        return self._drainer is not None and self._drainer.running and self.table.calls > 0

    @property
    def _calls_under_way(self) -> bool:
        # A note may be of a result that was asked for just now, or of one that has come.
        drainer = self._drainer
        noted = drainer is not None and drainer.running and len(drainer.mailbox) > 0
        return noted or bool(self._open_calls)

    @property
    def _open_calls(self) -> int:
        """Calls beside the loop that have not ended."""
        return 0 if self._drainer is None else self._drainer.calls

    def give_up_callbacks(self, at_once: bool) -> None:
        """Begin to tell those whose result has not come: in the drain loop, or *at_once*, here."""
        drainer = self._drainer
        if drainer is None or self._told:
            return
        if at_once or not drainer.running:
            self._give_up()
        else:
            # What was asked for just before has been noticed by then.
            self.in_loop(self._give_up)

    def _give_up(self) -> None:
        if self._told:
            return
        self._told = True
        self.given_up = self.table.calls
        for pending in self.table.overdue(0):
            self._give_up_on(
                pending,
                f"The process ends, and no result of task {quoted(pending.task_id)} has come.",
            )

    def _orphaned(self, _: object) -> None:
        drainer = self._drainer
        if drainer is not None:
            drainer.retire()

    def after_fork_in_child(self) -> None:
        """Leave to the parent what is the parent's: sockets are neither closed nor written to."""
        drainer = self._drainer
        if drainer is not None:
            drainer.abandon()
        forks.keep(self.forget_connections(), self.table)
        self._begin()
        if drainer is not None:
            drainer.end_copy()  # last, as what it unwinds finds nothing of the parent's here

    # -- Celery's interface, for what it calls on a consumer

    def start(self, initial_task_id: str | None = None, **kwargs: Any) -> None:
        """Start the drainer. Celery's signature; a task id is of no consequence."""
        self.drainer.start()

    def stop(self) -> None:
        """Stop the drainer, if one runs. See :meth:`Drainer.stop`."""
        if self._drainer is not None:
            self._drainer.stop()

    def drain_events_until(
        self, p: Any, timeout: float | None = None, on_interval: Any = None
    ) -> Iterator[None]:
        """Yield after each turn until *p* is ready. See :meth:`Drainer.drain_events_until`."""
        return self.drainer.drain_events_until(p, timeout=timeout, on_interval=on_interval)

    def on_after_fork(self) -> None:
        """This is a child: what is the parent's is left to it. Without effect where it is known."""
        forks.notice()

    def on_state_change(self, meta: Meta, message: Any) -> None:
        """Hand over the state *meta*, which has come in another way."""
        self.in_loop(self.deliver, meta["task_id"], lambda: dict(meta))

    def consume_from(self, task_id: str) -> None:
        """Do nothing: what is to be consumed is what somebody waits for."""

    def cancel_for(self, task_id: str) -> None:
        """Do nothing: whoever waits for *task_id* cancels by ending its wait."""


def _stopped(task_id: str) -> DrainerStopped:
    return DrainerStopped(
        f"The result drainer was stopped while the result of task {quoted(task_id)} was waited "
        f"for. The task itself goes on, and waiting again starts the drainer anew.",
        task_id,
    )
