"""Reads of single states from a polled store: those that gather while one is under way go together.

That is ``result.state``, ``ready()`` and the like, which progress bars ask for at once.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from queue import Empty
from typing import Optional

from .. import drainers
from ..drainers.slots import Slots
from ..pending import Meta

__all__ = ("GatheredReads", "States")

logger = logging.getLogger(__name__)

#: Seconds to wait for the read under way: if it hangs, others go by themselves.
PATIENCE = 1.0

#: Seconds that all go by themselves after the store has refused to be asked for many.
PAUSE = 10.0

#: Finds the states of some tasks at once, in their order; None: this one is to be read alone.
States = Callable[[list[str]], list[Optional[Meta]]]


class GatheredRead:
    """One read: whether somebody has made it for all who had gathered, and what came of it."""

    __slots__ = ("made", "meta", "task_id")

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.made = False
        self.meta: Meta | None = None


class GatheredReads:
    """Makes one read at a time: the first is that of one task, the next that of all who came since.

    What is out of the ordinary is read alone, as Celery does it: where the store cannot be asked
    for many, where one state cannot be read, or where the read under way takes long.

    :param limit: how many go together at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        #: Until when all go by themselves, by the monotonic clock.
        self._paused = 0.0
        self._turn = Slots(1, lambda: drainers.fitting().own_signal())
        self._turn.put_nowait(None)
        self._gathered: deque[GatheredRead] = deque()

    def read(self, task_id: str, alone: Callable[[], Meta], states: States) -> Meta:
        """Return the state of *task_id*.

        :param alone: reads it by itself.
        :param states: reads many.
        """
        if self._limit == 1 or time.monotonic() < self._paused:
            return alone()
        read = GatheredRead(task_id)
        self._gathered.append(read)
        try:
            self._turn.get(timeout=PATIENCE)
        except BaseException as exc:
            read.made = True  # by itself, or by nobody
            if isinstance(exc, Empty):
                return alone() if read.meta is None else read.meta
            raise
        try:
            if not read.made:
                reads = self._take(read)
                if len(reads) == 1:
                    return alone()
                self._read_all(reads, states)
        finally:
            self._turn.put_nowait(None)
        return alone() if read.meta is None else read.meta

    def _read_all(self, reads: list[GatheredRead], states: States) -> None:
        try:
            metas = states([read.task_id for read in reads])
        except Exception as exc:  # which each is told by its own read, if that fails as well
            self._paused = time.monotonic() + PAUSE
            logger.debug("Reading %d states at once failed: %r", len(reads), exc)
            return
        for read, meta in zip(reads, metas):
            read.meta = meta

    def _take(self, first: GatheredRead) -> list[GatheredRead]:
        """Those that go together now."""
        reads = [first]
        first.made = True
        while self._gathered and len(reads) < self._limit:
            read = self._gathered.popleft()
            if not read.made:
                read.made = True
                reads.append(read)
        return reads
