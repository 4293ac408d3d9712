"""N waits, by ``get()`` or ``then()``; then their results come, as fast as they are published."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import redis
from celery import uuid
from celery.exceptions import TimeoutError

from tests.green import spawn

from .contenders import make_app
from .plan import Measurement
from .process import Clock, Helper, fall_silent, rss, settle
from .results import task_ids

#: How often all have got a result, where a process is watched for growth.
WAVES = 20


class Waits:
    """What is waited for, and what has come of it."""

    def __init__(self, what: Measurement, addresses: dict[str, str]) -> None:
        self.what = what
        self.addresses = addresses
        self.app = make_app(what, addresses)
        self.errors: Counter[str] = Counter()
        self.over = threading.Event()

    def warm_up(self) -> None:
        """Have the connections opened, and all imported that is imported late."""
        with suppress(TimeoutError):
            self.app.AsyncResult(uuid()).get(timeout=0.1)

    def declare(self, index: int, task_id: str) -> None:
        """See that there is a queue for the result, as ``delay()`` does."""
        if self.what.store == "redis":
            return
        backend = self.app.backend
        self.queues[index] = backend.oid
        if self.what.contender == "drained" and index:
            return  # all share that of the first
        with self.app.producer_or_acquire() as producer:
            backend.on_task_call(producer, task_id)

    def begin(self, seed: int = 1, pause: float = 0.0, delay: float = 0.0) -> None:
        """Have all of them wait: at once, or after *delay* seconds one every *pause* seconds."""
        self.left = self.what.count
        self.over.clear()
        #: Where the results are to go: one queue for all of them, or one for each.
        self.queues: Any = [None] * self.what.count
        wait = self._then if self.what.case == "then" else self._get
        begun = time.monotonic() + delay
        for index, task_id in enumerate(task_ids(self.what.count, seed)):
            if pause:
                time.sleep(max(begun + index * pause - time.monotonic(), 0))
            wait(index, task_id)

    def end(self, publisher: Helper) -> Clock:
        """Have the results published; return what it took until all had theirs."""
        clock = Clock()
        publisher.start(self.queues)
        self.over.wait(self.what.patience)
        return clock.stop()

    def publisher(self, seed: int = 1) -> Helper:
        """Who is to publish them. Made before they are waited for, as a fork has its price: the
        kernel copies or releases each page when it is next written to.
        """
        store = self.what.store
        return Helper("publisher", store, self.addresses[store], self.what.count, seed).ready()

    def _get(self, index: int, task_id: str) -> None:
        spawn(self._wait, index, task_id)

    def _wait(self, index: int, task_id: str) -> None:
        try:
            self.declare(index, task_id)
            value = self.app.AsyncResult(task_id).get(timeout=self.what.patience)
            if value != index:
                self.errors["wrong value"] += 1
        except Exception as exc:
            self.errors[type(exc).__name__] += 1
        self._count()

    def _then(self, index: int, task_id: str) -> None:
        self.declare(index, task_id)
        self.app.AsyncResult(task_id).then(self._count)

    def _count(self, result: Any = None) -> None:
        self.left -= 1
        if not self.left:
            self.over.set()


def get(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    """The cost of a result; and before that, of the waits and of waiting."""
    probe = redis.Redis.from_url(addresses["probe"], client_name="probe")
    waits = Waits(what, addresses)
    waits.warm_up()
    publisher = waits.publisher()
    probe.config_resetstat()
    gc.collect()
    memory = rss()
    registering = Clock()
    waits.begin()
    fall_silent(what.patience / 4)
    registering.stop()
    memory = rss() - memory
    statistics = probe.info("commandstats")
    commands = [
        int(statistics.get(f"cmdstat_{name}", {}).get("calls", 0))
        for name in ("subscribe", "mget", "get")
    ]
    connections = [client for client in probe.client_list() if client["name"] == "web"]
    gc.collect()  # what the waits have left is not the results' to pay for
    idle = settle(what.settle)
    came = waits.end(publisher)
    failed = waits.left + sum(waits.errors.values())
    over_redis = {"commands": sum(commands), "connections": len(connections)}
    delivered = max(what.count - failed, 1)
    cpu = came.cpu - idle * came.wall
    return {
        "failed": failed,
        "errors": dict(waits.errors),
        "cpu": cpu / delivered * 1e6,
        "wall": came.wall / delivered * 1e6,
        "registering": registering.cpu / what.count * 1e6,
        "memory": memory / what.count / 1024,
        **(over_redis if what.store == "redis" else {}),
    }


then = get


def idle(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    """What waiting costs while nothing comes: seconds of CPU time in ten seconds."""
    waits = Waits(what, addresses)
    waits.begin()
    fall_silent(what.patience / 4)
    settle(what.settle)
    return {"cpu": settle(5 * what.settle) * 10, "failed": what.count - waits.left}


def growth(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    """How much memory a process takes for more and more results."""
    waits = Waits(what, addresses)
    sizes = []
    for seed in range(int(what.effort * WAVES)):
        publisher = waits.publisher(seed)
        waits.begin(seed)
        fall_silent(what.patience / 4)
        waits.end(publisher)
        sizes.append(rss())
    # What the first waves need is used again by the later ones.
    grown = (sizes[-1] - sizes[len(sizes) // 2]) / 1e6
    return {"failed": waits.left + sum(waits.errors.values()), "growth": grown, "sizes": sizes}
