"""Very many that wait at once: what each step takes, and how long nobody else can run meanwhile."""

from __future__ import annotations

import gc
import time
from typing import Any

from celery import uuid
from celery.result import GroupResult

from tests.green import spawn

from .plan import Measurement
from .process import fall_silent, rss
from .results import task_ids
from .servers import Redis
from .waits import Waits

#: Waits that begin before others run for a moment: who begins them is to keep nobody. By 0 seconds
#: gevent would look at no socket meanwhile.
CHUNK, MOMENT = 100, 0.0001

#: Members of a group.
MEMBERS = 100


class Hub:
    """A greenlet that is always about to run, and knows for how long it could not."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._longest = self._longest_apart = 0.0
        #: Seconds of garbage collection since it ran last, and when one has begun.
        self._collecting = self._collection = 0.0
        gc.callbacks.append(self._on_collection)
        spawn(self._run)

    def _on_collection(self, phase: str, info: object) -> None:
        if phase == "start":
            self._collection = time.monotonic()
        else:
            self._collecting += time.monotonic() - self._collection

    def _run(self) -> None:
        while True:
            time.sleep(0.001)
            now = time.monotonic()
            stood, self._last = now - self._last, now
            self._longest = max(self._longest, stood)
            self._longest_apart = max(self._longest_apart, stood - self._collecting)
            self._collecting = 0.0

    def stood(self) -> tuple[float, float]:
        """The longest time since it was asked last, and the longest but for collections: in ms."""
        longest = self._longest * 1e3, self._longest_apart * 1e3
        self._longest = self._longest_apart = 0.0
        return longest


class Many(Waits):
    """They begin to wait, lose their connection, and get their results."""

    def __init__(self, what: Measurement, addresses: dict[str, str]) -> None:
        super().__init__(what, addresses)
        self.server = Redis(addresses)
        self.left = what.count
        self.queues = None  # all read from the store
        self.ids = task_ids(what.count)

    def begin_one_by_one(self) -> None:
        for start in range(0, len(self.ids), CHUNK):
            for index, task_id in enumerate(self.ids[start : start + CHUNK], start):
                if self.what.case == "thens":
                    self._then(index, task_id)
                else:
                    self._get(index, task_id)
            time.sleep(MOMENT)

    def begin_groups(self) -> None:
        starts = range(0, len(self.ids), MEMBERS)
        self.left = len(starts)
        for start in starts:
            ids = self.ids[start : start + MEMBERS]
            members = [self.app.AsyncResult(task_id) for task_id in ids]
            GroupResult(uuid(), members, app=self.app).then(self._count)
            time.sleep(MOMENT)

    def until_subscribed(self) -> None:
        """Return when the server knows all of them."""
        deadline = time.monotonic() + self.what.patience
        while self.server.channels() < self.what.count and time.monotonic() < deadline:
            time.sleep(0.01)


def thens(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    """Seconds of each step, bytes of each wait, and the longest times that the hub stood."""
    many = Many(what, addresses)
    many.warm_up()
    publisher = many.publisher()
    hub, memory = Hub(), rss()
    outcome: dict[str, Any] = {}

    def step(name: str, begun: float) -> None:
        outcome[f"{name} s"] = time.monotonic() - begun
        outcome[f"{name} ms"], outcome[f"{name} apart"] = hub.stood()

    begun = time.monotonic()
    (many.begin_groups if what.case == "groups" else many.begin_one_by_one)()
    many.until_subscribed()
    step("register", begun)
    fall_silent(what.patience / 4)
    outcome["memory"] = (rss() - memory) / what.count / 1024
    hub.stood()
    begun = time.monotonic()
    many.server.cut_off_subscribers()
    many.until_subscribed()
    step("reconnect", begun)
    fall_silent(what.patience / 4)
    hub.stood()
    begun = time.monotonic()
    many.end(publisher)
    step("deliver", begun)
    return {"failed": many.left + sum(many.errors.values()), **outcome}


gets = groups = thens
