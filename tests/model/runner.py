"""Rounds of histories at once, and a look at what they have left behind."""

from __future__ import annotations

import faulthandler
import gc
import itertools
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kombu.exceptions
import kombu.pools
import redis
from celery import Celery, uuid
from celery.signals import before_task_publish

from ..green import DRAINER, drain_loops, size, spawn, wait_until
from .histories import History, OnPurpose
from .oracle import ALL, PATIENCE, Oracle, Plan
from .sides import Side
from .weather import HEARTBEAT, RECONCILE, RECOVERY, RETRY_MAX, Climate, Weather, disturb

__all__ = ("Model",)

#: Histories of one round, and how many of them there are at once.
ROUND = size(400, 150)
LANES = size(80, 24)

#: Rounds that one app lives.
ERA = 8

#: What the package may log. All else is a fault.
EXPECTED = (
    "Lost the connection",
    "All 10 connections to Redis for single commands are in use for long",
    "The connection that results come over is back",
    "The result drainer was killed",
)


class Model:
    """The app, its server, and all that is known of what is to come."""

    outages = (redis.RedisError, kombu.exceptions.OperationalError, OSError)

    def __init__(
        self, side: Side, oracle: Oracle, seed: int, climate: Climate, histories: int = 0
    ) -> None:
        self.side = side
        self.oracle = oracle
        self.weather = Weather(False, (), 700)
        self.histories = 0
        self.memory = Memory()
        self.app: Celery
        self._seed = seed
        self._climate = climate
        self._size = histories or ROUND
        self._reconciles = False
        self._deadline = 0.0
        self._expected: dict[str, Plan] = {}
        self._gate = Gate()
        self.errors = Errors()
        gc.collect()
        gc.freeze()  # so that to collect garbage, again and again, takes little time
        logger = logging.getLogger("celery_green_drain")
        logger.addHandler(Log(oracle))
        logger.propagate = False
        logging.getLogger().addHandler(logging.NullHandler())

    # -- for histories

    def io(self) -> Any:
        """For what uses connections that are not the drainer's: no fork meanwhile."""
        return self._gate.open()

    def alone(self) -> Any:
        """For a fork: nobody is in :meth:`io` meanwhile."""
        return self._gate.closed()

    def expect(self, plans: list[Plan]) -> None:
        """Tasks with these ids are about to be sent."""
        self._expected.update((plan.id, plan) for plan in plans)

    def _take_task(self, headers: Any = None, properties: Any = None, **kwargs: Any) -> None:
        # So early that a result may be there before delay() returns.
        plan = self._expected.pop(headers["id"], None)
        if plan is not None:
            self.order(plan, properties["reply_to"])

    def order(self, plan: Plan, queue: str = "") -> None:
        """Have the worker do what the task is to bring."""
        plan.ordered()
        self.side.order((plan.id, queue, plan.steps))

    def send_from_child(self, plan: Plan) -> None:
        """Send a task in a forked child."""
        if self.side.stores:
            self.order(plan)
            return
        self.expect([plan])
        # A connection of its own, as kombu shares its pool with the children of os.fork().
        with self.app.connection_for_write() as connection:
            self.app.tasks["nap"].apply_async((0,), task_id=plan.id, connection=connection)

    def judge_outage(self, name: str, since: float, exc: BaseException) -> None:
        """A single command has failed, as it may in an outage."""
        self.oracle.at_home()
        if not self.oracle.in_trouble(since):
            trace = "".join(traceback.format_exception(None, exc, exc.__traceback__))
            self.oracle.fault(name, f"a single command raised {exc!r}\n{trace}")

    # -- rounds

    def run(self, deadline: float, first: int = 0, count: int | None = None) -> int:
        """Do rounds until *deadline*, by the monotonic clock, or *count*; return how many."""
        self._deadline = deadline
        for number in itertools.count(first):
            if number == first or number % ERA == 0:
                self._begin_era(number // ERA)
            self.oracle.round = number
            self._round(random.Random(f"{self._seed} {number}"), f"{self._seed} {number}")
            self.memory.measure()
            done = number - first + 1
            last = self._is_time_up() or done == count
            if last or number % ERA == ERA - 1:
                self._end_era(random.Random(f"{self._seed} end {number}"))
            if last:
                if self.memory.grows:
                    self.oracle.fault(ALL, f"memory grows: {self.memory}")
                return done
        raise AssertionError("there is no last number")

    def _is_time_up(self) -> bool:
        return self.oracle.over or time.monotonic() > self._deadline

    def _begin_era(self, number: int) -> None:
        self.app = self.side.make_app(
            result_drainer=DRAINER,
            result_drainer_heartbeat=HEARTBEAT,
            result_drainer_retry_max=RETRY_MAX,
            # Where it is long, nothing makes up for what the rest has overlooked.
            result_drainer_reconcile_interval=RECONCILE if number % 2 else 10_000.0,
        )
        self.oracle.reconciled = 2 * RECONCILE
        self._reconciles = bool(number % 2)
        # After the backend is made, which has a say in where results go.
        assert self.app.backend
        before_task_publish.connect(self._take_task)

    def _end_era(self, rng: random.Random) -> None:
        """The app goes, and all that belongs to it."""
        if rng.random() < 0.5:
            self.app.backend.result_consumer.stop()
        self.app.close()
        del self.app
        kombu.pools.reset()  # where Celery leaves the producers of an app that was closed
        self._check(
            "the end of the app's drain loop", lambda: (gc.collect(), drain_loops())[1] == 0
        )

    def _round(self, rng: random.Random, seed: str) -> None:
        weather = self._climate.draw(rng, self._reconciles)
        self.weather = weather
        self.oracle.note(ALL, weather)
        gc.set_threshold(weather.threshold)
        # Somebody waits all the time, so that no stop gives up the queue of those who come later.
        sentinel = self.app.AsyncResult(uuid())
        sentinel.then(print)
        numbers = itertools.count()
        left = [LANES]
        over, lock = threading.Event(), threading.Lock()

        def lane() -> None:
            try:
                while (number := next(numbers)) < self._size and not self._is_time_up():
                    History(self, f"{number}", random.Random(f"{seed} {number}")).run()
                    self.histories += 1
            finally:
                with lock:
                    left[0] -= 1
                if not left[0]:
                    over.set()

        for _ in range(LANES):
            spawn(lane)
        disturb(self, random.Random(f"{seed} weather"), over)
        if not over.wait(3 * PATIENCE):
            self.oracle.fault(ALL, "the histories have never ended")
        gc.set_threshold(700)
        self.app.backend.remove_pending_result(sentinel)
        self._expected.clear()
        if "swallow" in weather.disturbances:
            # The server still knows connections whose end was swallowed.
            self.oracle.trouble(RECOVERY, "reset")
            self.side.proxy.reset()
        self._look_behind()

    # -- what is left

    def _look_behind(self) -> None:
        consumer = self.app.backend.result_consumer
        statistics = consumer.statistics
        self._check("an empty table", lambda: statistics().pending == 0, statistics)
        self._check(
            "the end of all subscriptions",
            lambda: not self.side.left(self.app),
            lambda: self.side.left(self.app),
        )
        self._check("one drain loop", lambda: drain_loops() <= 1, drain_loops)
        self.oracle.never_ended()
        if statistics().evicted:
            self.oracle.fault(ALL, f"results were evicted: {statistics()}")
        if statistics().unreadable:
            self.oracle.fault(ALL, f"something could not be read: {statistics()}")
        errors = self.errors.new()
        if errors:
            self.oracle.fault(ALL, f"there is something on stderr:\n{errors}")
        self.side.clean()

    def _check(self, what: str, condition: Any, details: Any = lambda: "") -> None:
        try:
            wait_until(condition, what)
        except AssertionError as exc:
            self.oracle.fault(ALL, f"{exc}: {details()}")


class Memory:
    """What the process keeps, at the end of each round."""

    def __init__(self) -> None:
        #: Blocks of memory that Python uses.
        self._blocks: list[int] = []

    def measure(self) -> None:
        gc.collect()
        self._blocks.append(sys.getallocatedblocks())

    @property
    def grows(self) -> bool:
        """Whether it has grown after the first third, by which caches are full."""
        third = len(self._blocks) // 3
        if third < ERA // 2:
            return False
        middle, end = self._blocks[third:-third], self._blocks[-third:]
        return max(end) > max(middle) * 1.02 and min(end) > min(middle) * 1.02

    def __str__(self) -> str:
        third = max(1, len(self._blocks) // 3)
        parts = self._blocks[:third], self._blocks[third:-third], self._blocks[-third:]
        ranges = (f"{min(part):,} to {max(part):,}" for part in parts if part)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        megabytes = pages * os.sysconf("SC_PAGESIZE") // 2**20
        return f"{', then '.join(ranges)} blocks; {megabytes} MiB"


class Gate:
    """Many may pass at once; or one alone, once all are through."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._shut = False

    @contextmanager
    def open(self) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._shut)
            self._inside += 1
        try:
            yield
        finally:
            with self._condition:
                self._inside -= 1
                self._condition.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        with self._condition:
            self._shut = True
            self._condition.wait_for(lambda: not self._inside)
        pid = os.getpid()
        try:
            yield
        finally:
            if os.getpid() == pid:  # in a child another thread may have the lock for ever
                with self._condition:
                    self._shut = False
                    self._condition.notify_all()


class Log(logging.Handler):
    """Sees that the package logs what is to be expected only."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__(logging.WARNING)
        self._oracle = oracle

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OnPurpose):
            return
        self._oracle.note(ALL, "log:", text)
        if error is not None or not text.startswith(EXPECTED):
            trace = (
                "".join(traceback.format_exception(None, error, error.__traceback__))
                if error
                else ""
            )
            self._oracle.fault(ALL, f"this was logged: {text} {error!r}\n{trace}")


class Errors:
    """What is written to stderr: by a green library, by a finaliser, by a child."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        sys.stderr.flush()
        self.stderr = os.dup(2)
        os.dup2(self._file.fileno(), 2)
        self._read = 0
        faulthandler.register(signal.SIGUSR1, file=2)

    def new(self) -> str:
        """What was written since the last call."""
        sys.stderr.flush()
        data = os.pread(self._file.fileno(), 1_000_000, self._read)
        self._read += len(data)
        return data.decode(errors="replace")[:4000]
