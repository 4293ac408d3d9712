"""The same tasks in two web processes, of which one has the setting: ``--compare``."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlencode

import redis
from celery.backends.asynchronous import Drainer as StockDrainer
from flask import Blueprint, Response, abort

from celery_green_drain import Drainer, sse

from .requests import number
from .servers import OPENER
from .tasks import app, square

__all__ = ("STOCK", "compare")

#: Whether this is the process without the setting.
STOCK = os.environ.get("CELERY_GREEN_DRAIN_DEMO_IS_STOCK") == "1"

#: Where that one is asked; "": the demo compares nothing.
OTHER = os.environ.get("CELERY_GREEN_DRAIN_DEMO_STOCK", "")

#: What this process calls its connections to the results.
CLIENT = os.environ.get("CELERY_GREEN_DRAIN_DEMO_CLIENT", "")

PAGE = Path(__file__).with_name("compare.html")

#: Most tasks in one run, and the longest that one may take, in seconds.
MOST_TASKS = 500
LONGEST = 1.0

#: Seconds that a request waits for its result.
PATIENCE = 60.0

#: Seconds between two looks at the figures.
FIGURES = 0.5

compare = Blueprint("compare", __name__, url_prefix="/compare")


class Run:
    """Requests, all at once and each in its own greenlet: each sends a task and waits for it."""

    def __init__(self, tasks: int, seconds: float) -> None:
        self.tasks, self.seconds = tasks, seconds
        #: Seconds from the end of a task to the request that waits for it.
        self.ways: list[float] = []
        self.errors: list[str] = []
        for task in range(tasks):
            threading.Thread(target=self._request, args=(task,), daemon=True).start()

    def _request(self, task: int) -> None:
        try:
            result = square.delay(task, self.seconds).get(timeout=PATIENCE)
            self.ways.append(time.time() - result["ended"])
        except Exception as exc:  # whatever it is, it is shown
            text = " ".join(str(exc).split())
            self.errors.append(f"{type(exc).__name__}: {text}"[:200])

    @property
    def over(self) -> bool:
        return len(self.ways) + len(self.errors) == self.tasks

    def figures(self) -> dict[str, Any]:
        ways = list(self.ways)
        return {
            "tasks": self.tasks,
            "ended": len(ways),
            "failed": len(self.errors),
            "error": self.errors[-1] if self.errors else "",
            "median": median(ways) if ways else None,
            "slowest": max(ways, default=None),
            "connections": _connections(),
            "loops": _loops(),
        }


def _connections() -> int | None:
    """How many this process has to the results; None: they cannot be asked."""
    # A connection for each look: it must outlive no outage.
    try:
        with redis.Redis.from_url(app.conf.result_backend, client_name="demo") as server:
            clients = server.client_list()
            return sum(bool(client["name"] == CLIENT) for client in clients)
    except redis.RedisError:
        return None


def _loops() -> int:
    """How many objects of this process drain results."""
    return sum(isinstance(thing, (Drainer, StockDrainer)) for thing in gc.get_objects())


@compare.before_request
def check() -> None:
    if not (STOCK or OTHER):
        abort(404, "The demo compares when it is started with --compare.")


@compare.get("")
def page() -> Response:
    return Response(PAGE.read_text(encoding="utf-8"), mimetype="text/html")


@compare.get("/run")
def run() -> Response:
    """Do it in this process, and stream how far it is."""
    return _events(_follow(Run(*_asked())))


@compare.get("/stock")
def stock() -> Response:
    """The same in the other process."""
    tasks, seconds = _asked()
    query = urlencode({"tasks": tasks, "seconds": seconds})
    return _events(OPENER.open(f"{OTHER}/compare/run?{query}", timeout=2 * PATIENCE))


def _asked() -> tuple[int, float]:
    return int(number("tasks", 1, 1, MOST_TASKS)), number("seconds", 0, 0, LONGEST)


def _events(body: Any) -> Response:
    return Response(body, content_type=sse.CONTENT_TYPE, headers=sse.HEADERS)


def _follow(run: Run) -> Iterator[bytes]:
    while not run.over:
        yield sse.format_event(json.dumps(run.figures()), "figures")
        time.sleep(FIGURES)
    yield sse.format_event(json.dumps(run.figures()), "end")
