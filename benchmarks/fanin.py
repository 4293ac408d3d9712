"""N web processes on one server: what it spends on each result, and keeps for each process."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from .plan import Measurement
from .process import Helper
from .servers import SERVERS

#: Results in each part, for all processes together, and how many come in a second where they come
#: one by one.
RESULTS, RATE = 1_000, 500

#: Seconds that the waits are ahead of their results.
LEAD = 0.2

#: Seconds in which all have begun to wait.
PATIENCE = 5.0


class FanIn:
    """Web processes, a worker that stores their results, and their server."""

    def __init__(self, what: Measurement, addresses: dict[str, str], helping: ExitStack) -> None:
        self.each = max(int(what.effort * RESULTS / what.count), 1)
        self.total = self.each * what.count
        self.server: Any = SERVERS[what.store](addresses)
        self.errors: Counter[str] = Counter()
        self.failed = 0
        self._seeds = 0
        waits = replace(what, case="get", count=self.each)
        stock = replace(waits, contender="stock", library="unpatched")
        self.worker = Helper("workers", json.dumps(asdict(stock)), json.dumps(addresses)).ready()
        helping.callback(self.worker.end)
        self.before = self.server.kept()
        self.webs = [
            Helper("web", json.dumps(asdict(waits)), json.dumps(addresses))
            for _ in range(what.count)
        ]
        for web in self.webs:
            helping.callback(web.end)
        self.queues = [web.ready().answer() for web in self.webs]

    def idle(self, seconds: float) -> float:
        """What it spends while nothing happens, in microseconds a second."""
        before = self.server.spent()
        time.sleep(seconds)
        return float((self.server.spent() - before)["cpu"] / seconds)

    def run(self, idle: float, pause: float, waiting: bool) -> dict[str, float]:
        """Have all results stored; return what the server spends on each.

        :param pause: seconds between two results; 0: all wait before the first, and they come as
            fast as the worker stores them.
        """
        seeds = [self._seeds + number for number in range(len(self.webs))]
        self._seeds += len(seeds)
        before, begun = self.server.spent(), time.monotonic()
        if waiting:
            between = pause * len(self.webs)
            for number, (web, seed) in enumerate(zip(self.webs, seeds)):
                web.start({"seed": seed, "pause": between, "delay": pause * number})
        time.sleep(LEAD)
        #: What the server keeps while they wait.
        self.kept = self._kept(0 if pause else self.total)
        queues = self.queues if waiting else [None] * len(self.webs)
        self.worker.start({"seeds": seeds, "queues": queues, "count": self.each, "pause": pause})
        self.worker.answer()
        for web in self.webs if waiting else ():
            answer = web.answer()
            self.failed += answer["failed"]
            self.errors.update(answer["errors"])
        time.sleep(LEAD)  # the last have been unsubscribed
        spent = self.server.spent() - before
        spent["cpu"] -= int(idle * (time.monotonic() - begun))
        return {name: value / self.total for name, value in spent.items()}

    def _kept(self, subscriptions: int) -> Counter[str]:
        """What the server keeps once it has so many subscriptions; RabbitMQ has none."""
        deadline = time.monotonic() + PATIENCE
        while True:
            kept: Counter[str] = self.server.kept()
            there = kept.get("subscriptions", subscriptions)
            if there >= subscriptions or time.monotonic() > deadline:
                return kept
            time.sleep(LEAD)


def fanin(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    """What a server spends on a result that nobody waits for, on one that somebody does, and on one
    of many for which all wait at once.
    """
    with ExitStack() as helping:
        several = FanIn(what, addresses, helping)
        idle = several.idle(what.settle / 2)
        parts = {
            "alone": several.run(idle, 1 / RATE, waiting=False),
            "single": several.run(idle, 1 / RATE, waiting=True),
            "together": several.run(idle, 0.0, waiting=True),
        }
        kept = {name: several.kept[name] - several.before[name] for name in several.kept}
    outcome = {
        "failed": several.failed,
        "errors": dict(several.errors),
        "cpu": parts["single"]["cpu"],
        "connections": kept["connections"] / what.count,
        "idle": idle,
        **{f"{part} {name}": value for part in parts for name, value in parts[part].items()},
    }
    if what.store == "redis":
        outcome["commands"] = parts["single"]["commands"] - parts["alone"]["commands"]
        outcome["subscriptions"] = kept["subscriptions"] / what.count
        outcome["memory"] = kept["bytes"] / what.count / 1024
    return outcome
