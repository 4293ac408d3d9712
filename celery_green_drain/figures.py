"""The figures of one result consumer: what it has done in this process, and when."""

from __future__ import annotations

import logging
import math
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any

from celery import states

from .clock import monotonic

__all__ = ("Figures", "Histogram", "Statistics", "moment")

logger = logging.getLogger(__name__)

#: Callbacks that may run at once before that is warned of.
MANY = 1000

#: Upper bounds of the buckets that times are sorted into, in seconds.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

#: Seconds between two results whose lag is measured: all of them where few come.
SAMPLE = 0.01

#: Lags that are kept for percentiles, and for how many seconds.
KEPT = 1000
RECENT = 300.0


@dataclass(frozen=True)
class Histogram:
    """How long things took, as Prometheus counts it."""

    #: Upper bounds of the buckets, in seconds. The last bucket has none.
    bounds: tuple[float, ...]
    #: How many fell into each bucket, one more than there are bounds.
    counts: tuple[int, ...]
    #: Seconds in all.
    sum: float


@dataclass(frozen=True)
class Statistics:
    """What the package has done for one app in this process, and what it holds now.

    Times of day are seconds since 1970, as ``time.time()`` has them. None: it has not happened.
    """

    #: Whether a drainer serves the results of the app. Where not, figures are 0, None, or empty.
    on: bool
    #: The drainer that serves, by its class; None: nobody has waited yet.
    drainer: str | None = None
    #: Whether its loop runs. It begins with the first wait.
    running: bool = False

    #: Task ids that somebody waits for.
    pending: int = 0
    #: Results among them that are to call back.
    callbacks_pending: int = 0
    #: Seconds that the one which is waited for longest has been waited for.
    oldest: float | None = None

    #: Results handed to those who wait.
    delivered: int = 0
    #: Those among them that were failures.
    failures: int = 0
    #: Waits that have ended by their timeout.
    timeouts: int = 0
    #: Waits that were ended by the drainer's end.
    stopped: int = 0
    #: Messages that could not be read.
    unreadable: int = 0
    #: Results with callbacks that have not come within ``result_expires``, or before the end of
    #: the process.
    given_up: int = 0
    #: Results that were dropped, as too many came that nobody had asked for. Only where they come
    #: over a message queue.
    evicted: int = 0

    #: Looks for results, of one or of many at once: commands on Redis, rounds where a store is
    #: polled.
    lookups: int = 0
    #: Channels that are subscribed to: Redis only.
    subscriptions: int = 0

    #: Callbacks that have ended, well or not.
    callbacks_run: int = 0
    #: Those among them that have raised.
    callbacks_raised: int = 0
    #: Callbacks that run now.
    callbacks_running: int = 0

    #: Connections that the drainer holds.
    connections: int = 0
    #: Times that they were opened.
    connects: int = 0
    #: Since when they are open.
    connected_since: float | None = None
    #: Outages: times that the connection was lost, or could not be opened.
    outages: int = 0
    #: Seconds of all outages that are over.
    outage_seconds: float = 0.0
    #: Since when there is an outage; None: there is none.
    lost_at: float | None = None
    #: The last error of the connection, and when it came.
    last_error: str | None = None
    last_error_at: float | None = None

    #: Seconds from the end of the task, by the worker's clock, to the delivery of its result:
    #: the median and the 99th percentile of the last five minutes, of 100 results a second.
    #: Results that were there before anybody waited do not count.
    lag_p50: float | None = None
    lag_p99: float | None = None
    #: The same since the beginning; and seconds from the begin of a wait to its result.
    lag: Histogram = Histogram((), (), 0.0)
    waits: Histogram = Histogram((), (), 0.0)


class Buckets:
    """A histogram that grows. One thread adds to it."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    def histogram(self) -> Histogram:
        """As it is now."""
        return Histogram(BOUNDS, tuple(self._counts), self._sum)


class Figures:
    """Counted without a lock, as each figure is changed by one thread only: the drain loop, who
    polls a store for it, or who ends the process. But callbacks end in any thread.
    """

    def __init__(self) -> None:
        self.delivered = 0
        self.failures = 0
        self.timeouts = 0
        self.stopped = 0
        self.unreadable = 0
        self.given_up = 0
        self.lookups = 0
        self.connects = 0
        self.connected_since: float | None = None
        self.outages = 0
        self.outage_seconds = 0.0
        self.lost_at: float | None = None
        self.last_error: str | None = None
        self.last_error_at: float | None = None
        self.waits = Buckets()
        self.lag = Buckets()
        self._lags: deque[tuple[float, float]] = deque(maxlen=KEPT)
        self._sampled = 0.0
        #: Callbacks that run now.
        self._running: set[object] = set()
        self._may_warn = iter((True,))  # gives that to one thread only
        self._callbacks_run = 0
        self._callbacks_raised = 0
        #: Those that are not counted yet: whether each has raised.
        self._over: deque[bool] = deque()
        self._lock = threading.Lock()

    # -- for the drain loop

    def result(self, meta: dict[str, Any], since: float) -> None:
        """A result was handed over, with the last state *meta*.

        :param since: when the first wait for it began, by the monotonic clock.
        """
        now = monotonic()
        self.delivered += 1
        if meta["status"] != states.SUCCESS:
            self.failures += 1
        self.waits.add(now - since)
        if now - self._sampled >= SAMPLE:
            self._sampled = now
            self._sample(moment(meta.get("date_done")), now, since)

    def _sample(self, ended: float | None, now: float, since: float) -> None:
        if ended is None:
            return
        # The clocks of two machines are never the same.
        lag = max(0.0, time.time() - ended)
        # Else it was there before anybody waited. This clock last: others may run between.
        if lag <= monotonic() - since:
            self.lag.add(lag)
            self._lags.append((now, lag))

    def timeout(self) -> None:
        """A wait has ended by its timeout."""
        self.timeouts += 1

    def connected(self) -> None:
        self.connects += 1
        self.connected_since = time.time()

    def lost(self, error: str, first: bool) -> None:
        """An attempt has failed with *error*, the *first* one of an outage or a further one."""
        self.last_error, self.last_error_at = error, time.time()
        self.connected_since = None
        if first:
            self.outages += 1
            self.lost_at = self.last_error_at

    def back(self, seconds: float) -> float:
        """The outage is over, after so many seconds; return the time of day that it ended."""
        ended = (time.time() if self.lost_at is None else self.lost_at) + seconds
        self.lost_at = None
        self.outage_seconds += seconds
        return ended

    # -- for everybody

    def callback_begins(self, callback: object) -> None:
        """*callback* runs from now on. Many at once are warned of, once."""
        self._running.add(callback)
        if len(self._running) > MANY and next(self._may_warn, False):
            logger.warning(
                "%d callbacks run at once, and each holds a greenlet, or a thread, until it ends. "
                "If they wait for something that may not come, let them give up after a while. "
                "statistics().callbacks_running says how many there are.",
                len(self._running),
            )

    def callback_over(self, callback: object, raised: bool) -> None:
        """*callback* has ended, in any thread. A green library's lock would cost more than that."""
        self._running.discard(callback)
        self._over.append(raised)
        if len(self._over) > KEPT:
            self._count_callbacks()

    def _count_callbacks(self) -> None:
        # Who finds another one counting leaves it to that: this may be in a signal handler.
        if self._lock.acquire(blocking=False):
            try:
                for _ in range(len(self._over)):
                    raised = self._over.popleft()
                    self._callbacks_run += 1
                    self._callbacks_raised += raised
            finally:
                self._lock.release()

    def counts(self) -> dict[str, Any]:
        """All of it, by the names of the fields of :class:`Statistics`."""
        self._count_callbacks()
        lags = sorted(self._recent())
        as_they_are = {each.name for each in fields(Statistics)} & vars(self).keys()
        return {
            **{name: getattr(self, name) for name in as_they_are},
            "callbacks_run": self._callbacks_run,
            "callbacks_raised": self._callbacks_raised,
            "callbacks_running": len(self._running),
            "lag_p50": _percentile(lags, 0.5),
            "lag_p99": _percentile(lags, 0.99),
            "lag": self.lag.histogram(),
            "waits": self.waits.histogram(),
        }

    def _recent(self) -> Iterable[float]:
        oldest = monotonic() - RECENT
        # A copy, as the loop goes on meanwhile.
        return [lag for at, lag in self._lags.copy() if at >= oldest]


def moment(done: Any) -> float | None:
    """The time of day that a store has in ``date_done``, as text or as it is; None: it has none."""
    try:
        moment = datetime.fromisoformat(done) if isinstance(done, str) else done
        if not isinstance(moment, datetime):
            return None
        # Without a zone it is UTC, for Celery.
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        return None


def _percentile(values: list[float], share: float) -> float | None:
    """The smallest of the sorted *values* that so large a share does not exceed."""
    return values[max(0, math.ceil(share * len(values)) - 1)] if values else None
