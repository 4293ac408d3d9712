"""Round trips: ``delay().get()``, by many at once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery

from tests.green import spawn

from .contenders import make_app
from .plan import Measurement
from .process import Clock, Helper, percentiles

#: Round trips in all: of one greenlet alone, and of many together.
ALONE, TOGETHER = 200, 2_000

#: Requests that are served at once.
AT_ONCE = 100


class Trips:
    """Round trips that are made, each timed, until *numbers* are used up."""

    def __init__(self, what: Measurement, app: Celery, total: int) -> None:
        self.what = what
        self.app = app
        self.numbers: Iterator[int] = iter(range(total))
        self.total = total
        self.times: list[float] = []
        self.errors: Counter[str] = Counter()
        self.over = threading.Event()
        #: Who follows where one has ended, for requests that each have a greenlet of their own.
        self.fresh = what.case == "requests"

    def run(self, at_once: int) -> dict[str, Any]:
        clock = Clock()
        for _ in range(at_once):
            spawn(self._go)
        self.over.wait(self.what.patience)
        clock.stop()
        times = sorted(self.times) or [self.what.patience]
        done = max(len(self.times), 1)
        return {
            "failed": self.total - len(self.times),
            "errors": dict(self.errors),
            "cpu": clock.cpu / done * 1e6,
            "wall": clock.wall / done * 1e6,
            **percentiles(times),
        }

    def _go(self) -> None:
        for number in self.numbers:
            self._trip(number)
            if self.fresh:
                spawn(self._go)
                return

    def _trip(self, number: int) -> None:
        begun = time.perf_counter()
        try:
            result = self.app.tasks["add"].delay(number, 1)
            if result.get(timeout=self.what.patience) != number + 1:
                raise ValueError("wrong value")
            self.times.append(time.perf_counter() - begun)
        except Exception as exc:
            self.errors[type(exc).__name__] += 1
        if len(self.times) + sum(self.errors.values()) == self.total:
            self.over.set()


def trip(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    """So many greenlets, each with one round trip after the other."""
    with answerer(what, addresses):
        return worker(what, addresses)


def worker(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    """The same with Celery's own worker, which runs already."""
    total = int(what.effort * (ALONE if what.count == 1 else TOGETHER))
    app = make_app(what, addresses)
    # Celery imports much at the first call of a process, for which all others here would wait.
    app.tasks["add"].delay(1, 1).get(timeout=what.patience)
    return Trips(what, app, total).run(what.count)


def requests(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    """So many requests, each in a fresh greenlet, as a web server has it."""
    with answerer(what, addresses):
        return Trips(what, make_app(what, addresses), what.count).run(AT_ONCE)


@contextmanager
def answerer(what: Measurement, addresses: dict[str, str]) -> Iterator[None]:
    names = ("rabbitmq",) if what.store == "rabbitmq" else ("broker", what.store)
    helper = Helper("answerer", what.store, *(addresses[name] for name in names)).ready()
    try:
        yield
    finally:
        helper.end()
