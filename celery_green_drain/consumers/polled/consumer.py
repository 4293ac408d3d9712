"""Results from a store that never calls back: one greenlet looks for all of them together.

The drain loop decides when, and a poller looks: a greenlet of its own, so that a slow store
keeps the loop from nothing. What it finds comes back as a note. There is one look at a time,
however many wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ... import drainers
from ...clock import monotonic
from ...drainers.base import Drainer
from ...drainers.lanes import Lanes
from ...quoting import one_line
from ..base import ResultConsumer
from .gathered import GatheredReads
from .lookups import HELD, Found, refuses_login
from .poller import Poller

__all__ = ("PolledResultConsumer",)

logger = logging.getLogger(__name__)

#: How much longer each pause is than the one before, while nothing moves.
SLOWER = 1.5

#: Seconds without anybody waiting after which the connection is closed.
LINGER = 2.0

#: Results handed over before others may run.
BATCH = 500


class PolledResultConsumer(ResultConsumer):
    """Polls one store. See the module for how."""

    #: Each store has errors of its own, and any of them means: try again.
    connection_errors = (Exception,)

    def _begin(self) -> None:
        super()._begin()
        self._poller: Poller | None = None
        #: What the store raised, until the loop has taken notice.
        self._error: Exception | None = None
        self._lanes_of: dict[type[Drainer], Lanes] = {}
        self.reads = GatheredReads(self, self.call_store)
        self._interval = self.settings.poll_min
        #: When to look next, and when somebody was waited for last: by the monotonic clock.
        self._due = 0.0
        self._used = 0.0
        #: What was never looked for, an ordered set, and when that may be done: in half of the time
        #: at most. Stock Celery looks at once, for each of them.
        self._fresh: dict[str, None] = {}
        self._fresh_due = 0.0
        #: When the look under way has begun, and whether it is for all.
        self._began = 0.0
        self._looks_for_all = True
        self._warned = False

    @property
    def connections(self) -> int:
        poller = self._poller
        return int(poller is not None and poller.proven and not poller.resting)

    @property
    def connected(self) -> bool:
        return self._poller is not None and self._poller.proven

    def call_store(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return ``function(*args)``, which calls the store: where it may block, and in its turn.

        For everybody, in the middle of a worker's task as well: no drainer is needed for it.
        """
        return self._lanes(function, *args)

    def calls_store(self) -> bool:
        """Whether the caller is in the middle of that. For everybody."""
        return self._lanes.is_inside()

    @property
    def _lanes(self) -> Lanes:
        library = drainers.fitting()
        if library not in self._lanes_of:  # the first time, or before the process was patched
            traits = self.backend.traits
            self._lanes_of.setdefault(library, library.lanes(traits.parallel, traits.blocks))
        return self._lanes_of[library]

    # -- in the drain loop

    def drain_events(self, timeout: float | None = None) -> None:
        self._look()
        self.mailbox.wait(self._patience(timeout))
        self.mailbox.read()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def on_wanted(self, task_id: str) -> None:
        self._fresh[task_id] = None
        self._hurry(monotonic())

    def on_unwanted(self, task_id: str) -> None:
        self._fresh.pop(task_id, None)

    def _hurry(self, now: float) -> None:
        """Something moves: look often for a while."""
        self._interval = self.settings.poll_min
        self._due = min(self._due, now + self._interval)

    def _patience(self, timeout: float | None) -> float | None:
        waits = [] if timeout is None else [timeout]
        if self.table and not (self._poller and self._poller.busy):
            due = min(self._due, self._fresh_due) if self._fresh else self._due
            waits.append(due - monotonic())
        return max(0.0, min(waits)) if waits else None

    def _look(self) -> None:
        now, poller = monotonic(), self._poller
        if poller is not None and not poller.lives:
            # Killed before it ran, as by something that kills all greenlets there are.
            poller = self._poller = None
        if not self.table:
            if poller is not None and not poller.busy and now - self._used > LINGER:
                self._release()
            return
        self._used = now
        if (poller is not None and poller.busy) or self.backend is None:
            return
        for_all = now >= self._due
        if not for_all and not (self._fresh and now >= self._fresh_due):
            return
        if poller is None:
            poller = self._poller = Poller(self)
        task_ids = list(self.table if for_all else self._fresh)
        self._fresh.clear()
        self._began, self._looks_for_all = now, for_all
        poller.look(task_ids)

    def looked(self, *outcome: Any) -> None:
        """Tell the loop what a look has brought. Unlike a wait, that starts no loop."""
        self.mailbox.post(self._on_looked, *outcome)

    def _on_looked(
        self, poller: Poller, found: list[Found], error: Exception | None, delivered: int = 0
    ) -> None:
        # Some may have been found even where it ended in an error.
        if poller is not self._poller or self.backend is None:
            return  # of a loop that has ended
        for task_id, decode in found[:BATCH]:
            delivered += self.deliver(task_id, decode, stored=True)
        if len(found) > BATCH:
            self.mailbox.post(self._on_looked, poller, found[BATCH:], error, delivered)
            return
        poller.busy = False
        if error is not None:
            self._error = error
            self._release()
            if refuses_login(error):
                self.tell_of_refusal(error)
        else:
            self.expire()
        now = monotonic()
        self._fresh_due = 2 * now - self._began
        if error is not None:
            self._due = now  # the loop waits by itself before it tries again
        elif self._looks_for_all:
            self._interval = min(self._interval * SLOWER, self.settings.poll_max)
            self._due = now + self._interval
        if delivered:
            self._hurry(now)
        if error is None and self._due - now > HELD:
            poller.rest()

    def on_connected(self) -> None:
        """The store has answered a new connection."""
        self.figures.connected()

    def on_no_batches(self, error: Exception) -> None:
        """The store answers single look-ups, and refuses those for many."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "Results are looked up one by one, as looking for many at once fails: %s",
                one_line(error),
            )

    # -- the ends of things

    def _release(self) -> None:
        poller, self._poller = self._poller, None
        self.figures.connected_since = None
        if poller is not None:
            poller.close()

    def disconnect(self) -> None:
        self._release()

    def forget_connections(self) -> object:
        if self._poller is not None:
            self._poller.forgotten = True
            for spawned in self._poller.spawned:
                self.drainer.discard(spawned)
        backend = self.backend
        kept = None if backend is None else backend.forget_connections()
        return self._poller, self._lanes_of, self.reads.forget(), kept
