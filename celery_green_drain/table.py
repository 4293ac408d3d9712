"""The table of a drain loop: task id → who wants it, so that one result wakes exactly those.

The loop alone touches it. Everybody else asks for a change, see :mod:`~.pending`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, takewhile

from celery import states

from .clock import monotonic
from .copies import Own, same_state, snapshot
from .figures import Figures
from .pending import Meta, PendingResult, Read, Wait

__all__ = ("PendingTable",)


class State:
    """The latest state of a task that has not ended."""

    __slots__ = ("doubtful", "name", "pristine", "read")

    def __init__(self, name: str, read: Read, doubtful: bool) -> None:
        self.name = name
        #: Reads it, anew each time.
        self.read = read
        #: It itself, where nobody has it who may change it.
        self.pristine: Meta | None = None
        #: Whether the store may know better: it was read from there and its message may be on
        #: the way still, or messages may have been lost.
        self.doubtful = doubtful

    def says(self, meta: Meta) -> bool:
        """Whether *meta* says the same."""
        same = same_state(meta, self.read() if self.pristine is None else self.pristine)
        if same:
            self.pristine = meta
        return same


class PendingTable:
    """Task id → :class:`~.pending.PendingResult`. Used by the drain loop alone.

    What most ids have is in one dictionary, what few have in others: what there is a million of
    is to be small, and the garbage collector looks at each object of a wait time and again.
    """

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        #: Who wants an id, the one first that is waited for longest. And where several want it,
        #: the further ones, in order.
        self._pending: dict[str, PendingResult] = {}
        self._others: dict[str, dict[PendingResult, None]] = {}
        #: What is known of those that are under way.
        self._states: dict[str, State] = {}
        #: Since when each that is to call back is listed, or was asked once more; the longest
        #: first.
        self._calls: dict[PendingResult, float] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._pending

    def __iter__(self) -> Iterator[str]:
        return iter(self._pending)

    def add(self, pending: PendingResult, wait: Wait | None = None) -> bool:
        """List *pending*, for *wait* if it is one that asks; return whether its id is new."""
        if pending.ready or not pending.wanted:
            return False
        task_id, now = pending.task_id, monotonic()
        first = self._pending.get(task_id)
        if first is None:
            self._pending[task_id] = pending
        elif first is not pending:
            self._others.setdefault(task_id, {})[pending] = None
        if not pending.since:
            pending.since = now
        if wait is None:
            self._renew(pending, now)
        elif wait.messages and task_id in self._states:
            read = self._states[task_id].read
            wait.tell(pending, read, read)
        return first is None

    def of(self, task_id: str) -> tuple[PendingResult, ...]:
        """Who wants *task_id*, the first one first. For everybody."""
        first, others = self._pending.get(task_id), self._others.get(task_id)
        if first is None:
            return ()
        return (first,) if others is None else (first, *others.copy())

    def longest(self, limit: int) -> list[str]:
        """So many ids, those that are waited for longest. For everybody."""
        return list(islice(self._pending.copy(), limit))

    @property
    def oldest(self) -> float | None:
        """Seconds that the first has been waited for; None: there is none. For everybody."""
        try:
            first = next(iter(self._pending.values()), None)
        except RuntimeError:
            return None  # it was just replaced
        since = 0.0 if first is None else first.since
        return monotonic() - since if since else None

    def state(self, task_id: str) -> str | None:
        """The latest state of a task that has not ended; None: none was seen. For everybody."""
        state = self._states.get(task_id)
        return None if state is None else state.name

    def wants_each(self, task_id: str) -> bool:
        """Whether each state of a task is to be told, also where several come at once."""
        return any(wait.each for _, wait in self._waits(task_id))

    def _waits(self, task_id: str) -> Iterator[tuple[PendingResult, Wait]]:
        """Who is in ``get()`` or the like for *task_id*, and for what."""
        for pending in self.of(task_id):
            for wait in pending.waits:
                yield pending, wait

    @property
    def calls(self) -> int:
        """How many are to call back. For everybody."""
        return len(self._calls)

    def _renew(self, pending: PendingResult, now: float) -> None:
        self._calls.pop(pending, None)
        self._calls[pending] = now

    def overdue(self, age: float) -> list[PendingResult]:
        """Take those off that were to call back *age* seconds ago, and that nobody waits for."""
        now = monotonic()
        due = takewhile(lambda call: call[1] <= now - age, self._calls.items())
        overdue = []
        for pending, _ in list(due):
            if pending.waits:
                self._renew(pending, now)  # it is still expected
            else:
                del self._calls[pending]
                overdue.append(pending)
        return overdue

    def discard(self, pending: PendingResult) -> bool:
        """Unlist *pending*, unless it is wanted again; return whether that leaves its id free."""
        task_id = pending.task_id
        first, others = self._pending.get(task_id), self._others.get(task_id, {})
        listed = pending is first or pending in others
        if not listed:
            return False
        if not pending.ready and pending.wanted:
            if not pending.calls_back:  # its callbacks were dismissed, and somebody still waits
                self._calls.pop(pending, None)
            return False
        if not others:
            self._take(task_id)
            return True
        self._unlist(pending)
        if pending is first:
            self._pending[task_id] = pending = next(iter(others))
        del others[pending]
        if not others:
            del self._others[task_id]
        return False

    def _unlist(self, pending: PendingResult) -> None:
        pending.since = 0.0
        if self._calls:
            self._calls.pop(pending, None)

    def _take(self, task_id: str) -> Iterable[PendingResult]:
        """Take *task_id* out; return who wanted it beside the first one."""
        first = self._pending.pop(task_id, None)
        if first is None:
            return ()
        self._unlist(first)
        if self._states:
            self._states.pop(task_id, None)
        others = self._others.pop(task_id, ()) if self._others else ()
        for pending in others:
            self._unlist(pending)
        return others

    def update(self, task_id: str, meta: Meta, read: Read, stored: bool = False) -> bool:
        """Hand *meta* to all that wait for *task_id*; return whether that has ended their wait.

        Handing over is idempotent: a result that comes again finds nobody.

        :param read: reads it anew, for each further one who waits.
        :param stored: it was read from the store, not sent as a message.
        """
        first = self._pending.get(task_id)
        if first is None:
            return False
        if meta["status"] not in states.READY_STATES:
            self._tell(task_id, meta, read, stored)
            return False
        self._figures.result(meta, first.since)
        others = self._take(task_id)
        first.resolve(meta, read)
        for pending in others:
            pending.resolve(None, read)
        return True

    def _tell(self, task_id: str, meta: Meta, read: Read, stored: bool) -> None:
        """Tell a state that is not the last to those who want each."""
        known = self._states.get(task_id)
        if stored and known is not None and not known.doubtful:
            return  # its message was faster
        if known is not None and known.doubtful and known.says(meta):
            known.doubtful = stored
            return
        own = Own(meta, read)
        state = self._states[task_id] = State(meta["status"], read, stored)
        for pending, wait in self._waits(task_id):
            if wait.messages:
                wait.tell(pending, read, own)
        state.pristine = own.unused

    def doubt(self) -> None:
        """Messages may have been lost: take the store's word for what came last."""
        for state in self._states.values():
            state.doubtful = True

    def fail(self, task_ids: Iterable[str], error: Exception) -> None:
        """Give all that wait for *task_ids* an error in place of the result."""
        for task_id in snapshot(task_ids):
            everybody = self.of(task_id)
            self._take(task_id)
            for pending in everybody:
                pending.fail(error)

    def interrupt(self, error: Callable[[str], Exception]) -> int:
        """End all waits with what *error* makes of a task id; return how many. Callbacks stay."""
        count = 0
        for task_id in self._pending:
            for _, wait in self._waits(task_id):
                wait.interrupt(error(task_id))
                count += 1
        return count
