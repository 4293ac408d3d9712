"""Results from a store that never calls back: one greenlet looks for all of them together.

The drain loop decides when, and a poller looks: a greenlet of its own, so that a slow store
keeps the loop from nothing. What it finds comes back as a note. There is one look at a time,
however many wait.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Optional

from celery import uuid

from ... import drainers
from ...clock import monotonic
from ...drainers.base import Drainer
from ...drainers.lanes import Lanes
from ...quoting import one_line
from ..base import ResultConsumer
from .gathered import GatheredReads
from .lookups import HELD, Found, Lookup, OneByOne, refuses_login, unreadable

__all__ = ("PolledResultConsumer",)

logger = logging.getLogger(__name__)

#: How much longer each pause is than the one before, while nothing moves.
SLOWER = 1.5

#: Seconds without anybody waiting after which the connection is closed.
LINGER = 2.0

#: Results handed over before others may run.
BATCH = 500

#: Seconds between two looks whether what is waited for still lives.
PATIENCE = 1.0

#: How often an id is looked for again that the store seems to refuse, as it may be chance: as often
#: as Celery asks a database.
ATTEMPTS = 3


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
                self.table.fail(self.table, error)
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


#: The ids to look for next; none: rest; None: end.
Request = Optional[list[str]]

#: What a look has found, and what ended it early, if something did.
Looked = tuple[list[Found], Optional[Exception]]


class Poller:
    """Looks into the store, one look at a time, from the connection's opening to its end.

    It lives in a greenlet (or thread) of its own, and so does its connection.
    """

    def __init__(self, consumer: PolledResultConsumer) -> None:
        self._consumer = consumer
        self._drainer = consumer.drainer
        self._traits = consumer.backend.traits
        self._use(self._open())
        #: Whether the store has answered.
        self.proven = False
        #: Whether a look is under way, or what it has found is handed over.
        self.busy = False
        #: Whether the connection is closed until the next look.
        self.resting = False
        #: Whether the loop was told of its end.
        self.ended = False
        self.forgotten = False
        self._requests: deque[Request] = deque()
        self._signal = self._drainer.signal()
        #: What runs now, to be discarded in a child.
        self.spawned: list[object] = [self._drainer.spawn_apart(self._run)]

    def _open(self, one_by_one: bool = False) -> Lookup:
        # Not kept: who polls is not to keep the backend alive, and so its app.
        lookup: Lookup = self._consumer.backend.lookup(one_by_one)
        return lookup

    def _use(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._lanes = self._traits.parallel if lookup.parallel else 1
        # A store that takes one call at a time takes ours in the same lane as all others.
        self._call: Callable[..., Any] = (
            self._consumer.call_store
            if self._traits.parallel == 1
            else drainers.fitting().lanes(self._lanes, self._traits.blocks)
        )

    @property
    def lives(self) -> bool:
        """Whether there is a greenlet that looks, or that has told how it ended."""
        return self.ended or self._drainer.lives(self.spawned[0])

    def look(self, task_ids: list[str]) -> None:
        """Begin to look for *task_ids*. What is found goes to the loop."""
        self.resting = False
        self._ask(task_ids)
        # Not before: interrupted in between, it would be busy for ever.
        self.busy = True
        self._consumer.figures.lookups += 1

    def rest(self) -> None:
        """Close the connection, if there is one: the next look is far off, and opens it anew."""
        if self._lookup.connects:
            self.resting = True
            self._ask([])

    def close(self) -> None:
        """End, and close the connection, once the look under way is over."""
        self._ask(None)

    def _ask(self, request: Request) -> None:
        self._requests.append(request)
        self._signal.set()

    def _run(self) -> None:
        looking = False
        try:
            while True:
                self._signal.wait()
                # The new signal is in place before the requests are looked at.
                self._signal = self._drainer.signal()
                while self._requests:
                    task_ids = self._requests.popleft()
                    if task_ids is None:
                        return
                    if not task_ids:
                        self._close()
                        continue
                    looking = True
                    try:
                        found, error = self._look(task_ids)
                    except Exception as exc:  # such as no thread to be had for a lane
                        found, error = [], exc
                    looking = False
                    self._note(found, error)
        finally:
            # Killed, if this is not the end that was asked for.
            if not self.forgotten:
                self.ended = True
                self._note([], RuntimeError("the greenlet that polls was killed"))
                if not looking:  # or a native thread may be in the middle of it
                    self._close()

    def _note(self, found: list[Found], error: Exception | None) -> None:
        self._consumer.looked(self, found, error)

    def _close(self) -> None:
        try:
            self._call(self._lookup.close)
        except Exception as exc:
            logger.debug("Closing the connection that polls failed: %r", exc)

    def _look(self, task_ids: list[str]) -> Looked:
        found, error = self._try(task_ids)
        if error is None and not self.proven:
            self.proven = True
            self._consumer.on_connected()
        elif error is not None and not self.proven and not isinstance(self._lookup, OneByOne):
            return self._one_by_one(task_ids, error)
        return found, error

    def _one_by_one(self, task_ids: list[str], refusal: Exception) -> Looked:
        """The first look has failed: find out whether only the way to look for many does."""
        self._reopen(one_by_one=True)
        _, error = self._try(task_ids[:1])
        if error is not None:
            return [], refusal
        # Or it was away just now, and is back.
        self._reopen()
        found, error = self._try(task_ids)
        if error is not None:
            self._reopen(one_by_one=True)
            self._consumer.on_no_batches(refusal)
            return self._look(task_ids)
        self.proven = True
        self._consumer.on_connected()
        return found, None

    def _reopen(self, one_by_one: bool = False) -> None:
        self._close()
        self._use(self._open(one_by_one=one_by_one))

    def _try(self, task_ids: list[str]) -> Looked:
        """Look for *task_ids*, in as many greenlets as the store takes calls."""
        size = self._lookup.chunk
        chunks = deque(task_ids[at : at + size] for at in range(0, len(task_ids), size))
        found: list[Found] = []
        errors: list[Exception] = []
        lane = partial(self._lane, chunks, found, errors)
        others = []
        for _ in range(min(self._lanes, len(chunks)) - 1):
            done = self._drainer.signal()
            spawned = self._drainer.spawn(lane, done)
            others.append((spawned, done))
            self.spawned.append(spawned)
        lane()
        for spawned, done in others:
            # One that is killed before it runs says nothing, and has taken no chunk.
            while not done.wait(PATIENCE) and self._drainer.lives(spawned):
                pass
        del self.spawned[1:]
        return found, errors[0] if errors else None

    def _lane(
        self,
        chunks: deque[list[str]],
        found: list[Found],
        errors: list[Exception],
        done: Any = None,
    ) -> None:
        try:
            while chunks and not errors:
                try:
                    chunk = chunks.popleft()
                except IndexError:
                    return  # another lane was faster
                found.extend(self._find(chunk))
        except Exception as exc:
            errors.append(exc)
        finally:
            if done is not None:
                done.set()

    def _find(self, task_ids: list[str]) -> list[Found]:
        try:
            return self._look_up(task_ids)
        except Exception as exc:
            error = exc
        # Either the store is gone; or one of the ids is such that it refuses the whole, and
        # whoever waits for that one must not stop all others.
        self._prove_that_it_answers(error)
        if len(task_ids) > 1:
            half = len(task_ids) // 2
            return self._find(task_ids[:half]) + self._find(task_ids[half:])
        for _ in range(ATTEMPTS):
            try:
                return self._look_up(task_ids)
            except type(error):
                if self._lookup.lost:  # again; where it is by this id, looking one by one shows it
                    raise
            self._prove_that_it_answers(error)
        return [unreadable(task_ids[0], error)]

    def _prove_that_it_answers(self, error: Exception) -> None:
        """:raises Exception: *error*, which tells more than that of this look, if it does not."""
        try:
            self._look_up([uuid()])
        except Exception:
            raise error from None

    def _look_up(self, task_ids: list[str]) -> list[Found]:
        found: list[Found] = self._call(self._lookup.find, task_ids)
        return found
