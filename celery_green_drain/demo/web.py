"""The web application: Celery's results in requests, and pushed to the browser."""

from __future__ import annotations

import inspect
import json
import os
import signal
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from celery import group
from celery.exceptions import TimeoutError
from flask import Flask, Response, abort, request
from werkzeug.exceptions import HTTPException

from celery_green_drain import State, sse

from .compare import OTHER, STOCK, compare
from .requests import number
from .tasks import add, app, square

if not STOCK:  # with --compare there is a process without it
    # This line is all it takes. The worker, which is not green, does without.
    app.conf.result_drainer = "gevent"

web = Flask(__name__)
web.register_blueprint(compare)

PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")

#: Most tasks in one run, and the longest that one may take, in seconds.
MOST_TASKS = 500
LONGEST = 10.0

#: Seconds to wait for a result, beyond the work itself.
PATIENCE = 30.0

#: Seconds between two looks at the figures, for those who watch tasks.
FIGURES = 0.25

#: The process to signal for a restart of the results' Redis; 0: that is not the demo's own.
REDIS_KEEPER = int(os.environ.get("CELERY_GREEN_DRAIN_DEMO_REDIS_KEEPER", 0))


#: The names by which the demo may be asked, besides addresses.
NAMES = {
    "localhost",
    socket.gethostname().lower(),
    *filter(None, os.environ.get("CELERY_GREEN_DRAIN_DEMO_NAMES", "").lower().split(",")),
}


@web.before_request
def check_origin() -> None:
    """Refuse what a page of another site sends: it would come with this user's rights."""
    name = _split(f"//{request.host}").hostname or ""
    # A site that gives its own name this machine's address becomes one with the demo.
    if not (name in NAMES or _is_address(name)):
        abort(403, f"The demo is not {name!r}. If it is to be, start it with --name {name}.")
    if request.path == "/":
        return  # it shows the page, wherever the link to it is
    site = request.headers.get("Sec-Fetch-Site", "none")
    origins = [request.headers.get(header) for header in ("Origin", "Referer")]
    others = [one for one in origins if one and _split(one).netloc != request.host]
    if others or site not in ("same-origin", "none"):
        abort(403, "The demo takes requests from its own page only.")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


@web.get("/")
def page() -> Response:
    return Response(PAGE, mimetype="text/html")


@web.route("/add", methods=["GET", "POST"])
def addition() -> dict[str, Any]:
    """Wait for the result in the request: the simple case."""
    x, y = int(number("x")), int(number("y"))
    return {"sum": add.delay(x, y).get(timeout=PATIENCE), "pid": os.getpid()}


@web.get("/squares")
def squares() -> Response:
    """Start tasks, and stream what each of them reports: Server-Sent Events."""
    count = int(number("tasks", 1, 1, MOST_TASKS))
    seconds = number("seconds", 0, 0, LONGEST)
    failing = request.args.get("failing") == "on"  # every tenth
    result = group(
        square.s(each, seconds, failing and each % 10 == 0) for each in range(1, count + 1)
    )()
    numbers = {member.id: each for each, member in enumerate(result.results, 1)}

    def describe(state: State) -> dict[str, Any]:
        return {**sse.describe(state), "number": numbers[state.task_id], "seconds": _way(state)}

    timeout = PATIENCE + count * seconds
    events = sse.stream(result, timeout=timeout, keep_alive=FIGURES, data=describe)
    return Response(_with_figures(events), content_type=sse.CONTENT_TYPE, headers=sse.HEADERS)


def _way(state: State) -> float | None:
    """Seconds from the end of a task to here. Both ends have the same clock."""
    return time.time() - state.result["ended"] if state.status == "SUCCESS" else None


def _with_figures(events: Generator[bytes, None, None]) -> Iterator[bytes]:
    due = 0.0
    with closing(events):
        for event in events:
            if time.monotonic() >= due:
                due = time.monotonic() + FIGURES
                yield sse.format_event(json.dumps(statistics()), "figures")
            yield event


@web.get("/statistics")
def statistics() -> dict[str, Any]:
    """What the drainer of the process that answers has done, and holds."""
    figures = asdict(app.backend.result_consumer.statistics())
    known = {"restartable": bool(REDIS_KEEPER), "compares": bool(OTHER)}
    return {"pid": os.getpid(), **known, **figures}


@web.post("/restart")
def restart() -> tuple[dict[str, Any], int]:
    """Kill the Redis of the results; its keeper starts it again."""
    if not REDIS_KEEPER:
        abort(409, "The demo uses a server that it has not started, and leaves it alone.")
    os.kill(REDIS_KEEPER, signal.SIGUSR1)
    return {}, 202


#: What the page links to: the code behind its buttons.
CODE = {
    "squares": squares,
    "restart": restart,
    "add": addition,
    "statistics": statistics,
}


@web.get("/code/<name>")
def code(name: str) -> Response:
    """The function of that name, as it stands here."""
    if name not in CODE:
        abort(404, f"There is no code of that name: {', '.join(CODE)}.")
    return Response(inspect.getsource(CODE[name]), mimetype="text/plain")


@web.errorhandler(HTTPException)
def refused(error: Any) -> tuple[dict[str, Any], int]:
    return {"error": error.description}, error.code


@web.errorhandler(TimeoutError)
def late(error: Any) -> tuple[dict[str, Any], int]:
    return {"error": f"No result came for {PATIENCE:g} s."}, 504
