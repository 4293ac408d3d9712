"""Single reads of a polled store: those that are asked for while one is under way go together.

That is ``result.state``, ``ready()`` and the like, which progress bars ask for at once. A read that
finds none under way is made where it is asked for, as Celery makes it. For all others there is a
greenlet: it makes one query for those who have asked since the last one, and ends when nobody has.

As it is nobody's own, no answer depends on the transaction, the context or the timeout of who
happened to ask first. And nobody depends on it: where its query fails, or takes long, each reads
alone for a while.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import uuid

from ... import drainers
from ...clock import monotonic
from ...drainers.base import Drainer
from ...pending import Meta
from ..base import ResultConsumer
from ..reading import Reading
from .lookups import Found, Lookup

__all__ = ("GatheredReads",)

logger = logging.getLogger(__name__)

#: Seconds that a query may take before who waits for it, or comes then, reads alone.
PATIENCE = 1.0

#: Seconds that all read alone after a query that the store has refused, or that took so long.
PAUSE = 10.0

#: Tasks of one query, as what is stored of all of them is in memory then.
MOST = 100


class GatheredReads:
    """Makes the single reads of one store. See the module for how.

    :param call_store: makes a call to the store, where it may block, and in its turn.
    """

    def __init__(self, consumer: ResultConsumer, call_store: Callable[..., Any]) -> None:
        self._consumer = consumer
        self._call_store = call_store
        #: Those that wait for the next query, and those of the one under way.
        self._gathered: deque[Reading] = deque()
        self._asked: list[Reading] = []
        #: Whether a read is under way where it was asked for.
        self._first = False
        #: What makes the queries, and what it looks with: kept here, so that in a child the end of
        #: the greenlet's copy does not close what is the parent's.
        self._greenlet: object = None
        self._lookup: Lookup | None = None
        #: When its query was begun, and until when none is made, by the monotonic clock.
        self._began = 0.0
        self._paused = 0.0

    def read(self, task_id: str, alone: Callable[[], Meta]) -> Meta:
        """Return the state of *task_id*.

        :param alone: reads it where it is called, and raises what Celery raises.
        """
        drainer = self._drainer_here()
        if drainer is None:
            return alone()
        if self._greenlet is None:
            if not self._first:
                return self._read_first(alone)
            if not self._consumer.backend.gathers:
                return alone()
            self._began = monotonic()
            self._greenlet = drainer.spawn_apart(self._run)
        reading = Reading(task_id, drainer.signal())
        self._gathered.append(reading)
        # Decoded where it was asked for, as that takes time, and may fail.
        return reading.value() if self._wait(reading) else alone()

    def _read_first(self, alone: Callable[[], Meta]) -> Meta:
        self._first = True
        try:
            return alone()
        finally:
            self._first = False

    def forget(self) -> object:
        """Return what is under way, in a child of the process that does it."""
        if self._greenlet is not None:
            self._consumer.drainer.discard(self._greenlet)
        return self

    def _drainer_here(self) -> Drainer | None:
        """What runs the greenlet; None: the caller is to read alone."""
        library = drainers.fitting()
        if library is drainers.threaded() or not library.at_home():
            return None
        drainer = self._consumer.drainer
        if not isinstance(drainer, library) or not drainer.is_local():
            return None
        if not drainer.lives(self._greenlet):
            # None was there, or it was killed before it ran.
            self._greenlet = None
        hangs = self._greenlet is not None and self._left <= 0
        return None if hangs or monotonic() < self._paused else drainer

    @property
    def _left(self) -> float:
        """Seconds that the query under way may still take."""
        return self._began + PATIENCE - monotonic()

    def _wait(self, reading: Reading) -> bool:
        """Wait for the answer; return whether there is one."""
        try:
            while not reading.ended and (left := self._left) > 0:
                reading.wait(left)
        finally:
            reading.give_up()  # so that nothing is read for who has left
        return reading.answered

    # -- in the greenlet

    def _run(self) -> None:
        try:
            lookup = self._lookup = self._consumer.backend.lookup()
            while self._gathered:
                self._read_all(lookup)
        except Exception as exc:  # each is told by its own read, if that fails as well
            logger.debug("States can be read one by one only: %r", exc)
            self._paused = monotonic() + PAUSE
        finally:
            # Also where it is killed.
            self._greenlet = None
            self._give_up_on(self._asked)
            self._give_up_on(self._gathered)
        self._close()  # not where it was killed: a native thread may be in the middle of a query

    def _read_all(self, lookup: Lookup) -> None:
        while self._gathered and len(self._asked) < min(lookup.chunk, MOST):
            reading = self._gathered.popleft()
            if not reading.ended:
                self._asked.append(reading)
        if not self._asked:
            return
        self._began = monotonic()
        try:
            found = dict(self._find(lookup, [reading.key for reading in self._asked]))
        except Exception:
            # Either the store is gone; or one of the ids is such that it refuses the whole.
            self._give_up_on(self._asked)
            self._find(lookup, [uuid()])
            return
        if self._left <= 0:
            raise TimeoutError("A query takes too long.")
        for reading in self._asked:
            reading.answer(found.get(reading.key) or partial(lookup.nothing, reading.key))
        self._asked.clear()

    def _find(self, lookup: Lookup, task_ids: list[str]) -> list[Found]:
        found: list[Found] = self._call_store(lookup.find, list(dict.fromkeys(task_ids)))
        return found

    def _give_up_on(self, readings: list[Reading] | deque[Reading]) -> None:
        for reading in readings:
            reading.give_up()
        readings.clear()

    def _close(self) -> None:
        lookup, self._lookup = self._lookup, None
        try:
            if lookup is not None:
                self._call_store(lookup.close)
        except Exception as exc:
            logger.debug("Closing the connection of single reads failed: %r", exc)
