"""The web application: Celery's results in requests, and pushed to the browser."""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from celery.exceptions import TimeoutError
from flask import Flask, Response, abort, request
from gevent.queue import Empty, Queue
from werkzeug.exceptions import HTTPException

from .tasks import add, app, square

# This line is all it takes. The worker, which is not green, does without.
app.conf.result_drainer = "gevent"

web = Flask(__name__)

PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")

#: Most tasks in one run, and the longest that one may take, in seconds.
MOST_TASKS = 500
LONGEST = 10.0

#: Seconds to wait for a result.
PATIENCE = 30.0


@web.get("/")
def page() -> Response:
    return Response(PAGE, mimetype="text/html")


@web.route("/add", methods=["GET", "POST"])
def addition() -> dict[str, Any]:
    """Wait for the result in the request: the simple case."""
    x, y = int(_number("x")), int(_number("y"))
    return {"sum": add.delay(x, y).get(timeout=PATIENCE), "pid": os.getpid()}


@web.get("/squares")
def squares() -> Response:
    """Start tasks, and stream each result as it comes: Server-Sent Events."""
    count = int(_number("tasks", 1, 1, MOST_TASKS))
    seconds = _number("seconds", 0, 0, LONGEST)
    failing = request.args.get("failing") == "on"
    events = (f"data: {json.dumps(event)}\n\n" for event in _events(count, seconds, failing))
    return Response(events, mimetype="text/event-stream", headers={"Cache-Control": "no-store"})


def _events(count: int, seconds: float, failing: bool) -> Iterator[dict[str, Any]]:
    """What happens to *count* tasks, of which every tenth fails where *failing*."""
    yield {"kind": "start", "tasks": count, "pid": os.getpid()}
    began = time.monotonic()
    arrived: Queue[Any] = Queue()
    numbers = {}
    for number in range(1, count + 1):
        result = square.delay(number, seconds, fails=failing and number % 10 == 0)
        numbers[result.id] = number
        result.then(arrived.put)
    for _ in range(count):
        try:
            result = arrived.get(timeout=PATIENCE)
        except Empty:
            yield {"kind": "late", "message": f"No result came for {PATIENCE:g} s."}
            return
        yield {
            "kind": "result",
            "number": numbers[result.id],
            "state": result.state,
            "result": result.result if result.successful() else str(result.result),
            "seconds": round(time.monotonic() - began, 3),
        }
    yield {"kind": "end"}


@web.get("/statistics")
def statistics() -> dict[str, Any]:
    """What the drainer of the process that answers has done, and holds."""
    return {"pid": os.getpid(), **asdict(app.backend.result_consumer.statistics())}


@web.errorhandler(HTTPException)
def refused(error: Any) -> tuple[dict[str, Any], int]:
    return {"error": error.description}, error.code


@web.errorhandler(TimeoutError)
def late(error: Any) -> tuple[dict[str, Any], int]:
    return {"error": f"No result came for {PATIENCE:g} s."}, 504


def _number(name: str, default: float | None = None, low: float = -1e9, high: float = 1e9) -> float:
    """The number that the request gives as *name*; whatever else it gives is refused."""
    try:
        value = float(request.values.get(name, default))
    except (TypeError, ValueError):
        value = float("nan")
    if not low <= value <= high:
        abort(400, f"{name}: a number from {low:.15g} to {high:.15g} is needed.")
    return value
