"""The table of a drain loop: task id → who wants it, so that one result wakes exactly those.

The loop alone touches it. Everybody else asks for a change, see :mod:`~.pending`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from celery import states

from .copies import Own, same_state, snapshot
from .figures import Figures
from .pending import Meta, PendingResult, Read, Wait

__all__ = ("Entry", "PendingTable")


class Entry:
    """All that is known of one task id."""

    __slots__ = ("_first", "_others", "latest", "pristine", "since", "status", "stored")

    def __init__(self, since: float) -> None:
        #: Since when it is waited for, by the monotonic clock.
        self.since = since
        #: Who wants it, in order: nearly always one, which an ordered set would take 200 bytes for.
        self._first: PendingResult | None = None
        self._others: dict[PendingResult, None] | None = None
        #: Reads the latest state before the last; None: there was none.
        self.latest: Read | None = None
        #: That state, where nobody has it who may change it.
        self.pristine: Meta | None = None
        #: The name of that state.
        self.status: str | None = None
        #: Whether the store may know better: it was read from there and its message may be on
        #: the way still, or messages may have been lost.
        self.stored = False

    @property
    def pending(self) -> tuple[PendingResult, ...]:
        """Who wants it, the first one first. For everybody: the loop goes on meanwhile."""
        first, others = self._first, self._others
        if first is None:
            return ()
        return (first,) if others is None else (first, *others.copy())

    def add(self, pending: PendingResult) -> None:
        if self._first is None:
            self._first = pending
        elif pending is not self._first:
            if self._others is None:
                self._others = {}
            self._others[pending] = None

    def remove(self, pending: PendingResult) -> bool:
        """Take *pending* out, if it is there; return whether nobody is left."""
        others = self._others
        if pending is not self._first:
            if others is not None:
                others.pop(pending, None)
        elif others is None:
            self._first = None
        else:
            self._first = next(iter(others))
            del others[self._first]
        if not others:
            self._others = None
        return self._first is None

    @property
    def waits(self) -> Iterator[tuple[PendingResult, Wait]]:
        """Who is in ``get()`` or the like, and for what."""
        for pending in self.pending:
            for wait in snapshot(pending.waits):
                yield pending, wait

    def is_latest(self, meta: Meta) -> bool:
        """Whether *meta* says what the latest state says."""
        if self.latest is None:
            return False
        same = same_state(meta, self.latest() if self.pristine is None else self.pristine)
        if same:
            self.pristine = meta
        return same

    def notify(self, meta: Meta, read: Read) -> None:
        """Tell a new state to those who want each."""
        self.latest, own = read, Own(meta, read)
        for pending, wait in self.waits:
            if wait.messages:
                wait.tell(pending, read, own)
        self.pristine = own.unused


class PendingTable:
    """Task id → :class:`Entry`. Used by the drain loop alone."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        #: The one first that is waited for longest.
        self._entries: dict[str, Entry] = {}
        #: Since when each that is to call back is listed, the longest first.
        self._since: OrderedDict[PendingResult, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def add(self, pending: PendingResult, wait: Wait | None = None) -> bool:
        """List *pending*, for *wait* if it is one that asks; return whether its id is new."""
        if pending.ready or not pending.wanted:
            return False
        entry = self._entries.get(pending.task_id)
        new = entry is None
        now = time.monotonic()
        if entry is None:
            entry = self._entries[pending.task_id] = Entry(now)
        if entry.latest is not None and wait is not None and wait.messages:
            wait.tell(pending, entry.latest, entry.latest)
        entry.add(pending)
        if wait is None:
            self._renew(pending, now)
        pending.listed = True
        return new

    @property
    def entries(self) -> dict[str, Entry]:
        """A copy of all entries. For everybody: the loop goes on meanwhile."""
        return self._entries.copy()

    @property
    def oldest(self) -> float | None:
        """Seconds that the first has been waited for; None: there is none. For everybody."""
        try:
            entry = next(iter(self._entries.values()), None)
        except RuntimeError:
            return None  # it was just replaced
        return None if entry is None else time.monotonic() - entry.since

    def state(self, task_id: str) -> str | None:
        """The latest state of a task that has not ended; None: none was seen. For everybody."""
        entry = self._entries.get(task_id)
        return None if entry is None else entry.status

    def wants_each(self, task_id: str) -> bool:
        """Whether each state of a task is to be told, also where several come at once."""
        entry = self._entries.get(task_id)
        return entry is not None and any(wait.each for _, wait in entry.waits)

    def _renew(self, pending: PendingResult, now: float) -> None:
        self._since[pending] = now
        if pending.listed:  # else it is new, and at the end by that
            self._since.move_to_end(pending)

    def _unlist(self, pending: PendingResult) -> None:
        pending.listed = False
        if self._since:
            self._since.pop(pending, None)

    @property
    def calls(self) -> int:
        """How many are to call back. For everybody."""
        return len(self._since)

    def overdue(self, age: float) -> Iterator[PendingResult]:
        """Yield those that were to call back *age* seconds ago, and that nobody waits for."""
        now = time.monotonic()
        for _ in range(len(self._since)):  # each once, as those that are renewed come again
            pending, since = next(iter(self._since.items()))
            if since > now - age:
                return
            if pending.waits:
                self._renew(pending, now)  # it is still expected
            else:
                del self._since[pending]
                yield pending

    def discard(self, pending: PendingResult) -> bool:
        """Unlist *pending*, unless it is wanted again; return whether that leaves its id free."""
        entry = self._entries.get(pending.task_id)
        if entry is None or not pending.listed or (pending.wanted and not pending.ready):
            return False
        free = entry.remove(pending)
        self._unlist(pending)
        if not free:
            return False
        del self._entries[pending.task_id]
        return True

    def update(self, task_id: str, meta: Meta, read: Read, stored: bool = False) -> bool:
        """Hand *meta* to all that wait for *task_id*; return whether that was the last state.

        Handing over is idempotent: a result that comes again finds nobody.

        :param read: reads it anew, for each further one who waits.
        :param stored: it was read from the store, not sent as a message.
        """
        entry = self._entries.get(task_id)
        if entry is None:
            return False
        if meta["status"] in states.READY_STATES:
            del self._entries[task_id]
            self._figures.result(meta, entry.since)
            first: Meta | None = meta
            for pending in entry.pending:
                self._unlist(pending)
                pending.resolve(first, read)
                first = None
            return True
        if stored and entry.latest is not None and not entry.stored:
            return False  # its message was faster
        repeated = entry.stored and entry.is_latest(meta)
        entry.stored, entry.status = stored, meta["status"]
        if not repeated:
            entry.notify(meta, read)
        return False

    def doubt(self) -> None:
        """Messages may have been lost: take the store's word for what came last."""
        for entry in self._entries.values():
            entry.stored = True

    def fail(self, task_ids: Iterable[str], error: Exception) -> None:
        """Give all that wait for *task_ids* an error in place of the result."""
        for task_id in snapshot(task_ids):
            entry = self._entries.pop(task_id, None)
            for pending in entry.pending if entry else ():
                self._unlist(pending)
                pending.fail(error)

    def interrupt(self, error: Callable[[str], Exception]) -> int:
        """End all waits with what *error* makes of a task id; return how many. Callbacks stay."""
        count = 0
        for entry in self._entries.values():
            for pending, wait in entry.waits:
                wait.interrupt(error(pending.task_id))
                count += 1
        return count
