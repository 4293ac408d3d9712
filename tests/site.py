"""A web application as any other, for a real gunicorn."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from celery_green_drain import wsgi_report

from .green import drain_loops
from .tasks import make_app

app = make_app(
    os.environ["SITE_BROKER"],
    os.environ["SITE_RESULTS"],
    result_drainer=os.environ.get("SITE_DRAINER", "gevent"),
)


#: What a test adds: more functions of such a web application.
ADDED: dict[str, Any] = {"app": app, "inside": wsgi_report(app)}
if "SITE_ADDED" in os.environ:
    exec(Path(os.environ["SITE_ADDED"]).read_text(), ADDED)


def use() -> None:
    """Get a result, before a fork: kombu shares its pool of connections with the children."""
    with app.connection_for_write() as connection:
        result = app.tasks["add"].apply_async((1, 2), connection=connection)
        assert result.get(timeout=30) == 3


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Add 1 to ``x``, in a task, and answer with what ``get()`` and ``then()`` say of it.

    The task takes ``nap`` seconds. ``/state`` adds nothing. ``/later`` leaves it to a callback,
    which tells the log. Others are those that a test adds.
    """
    added = ADDED.get(environ["PATH_INFO"][1:])
    if added is not None:
        answered: Iterable[bytes] = added(environ, start_response)
        return answered
    statistics = app.backend.result_consumer.statistics
    answer: dict[str, Any] = {"pid": os.getpid()}
    if environ["PATH_INFO"] != "/state":
        query = parse_qs(environ["QUERY_STRING"])
        x, nap = int(query["x"][0]), float(query.get("nap", ["0"])[0])
        task = app.tasks["nap"].s(nap, x + 1) if nap else app.tasks["add"].s(x, 1)
        result = task.delay()
        if environ["PATH_INFO"] == "/later":
            result.then(
                lambda result: print("later:", result.get(), flush=True),
                lambda error: print("never:", error, flush=True),
            )
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(answer).encode()]
        called: list[int] = []
        over = threading.Event()
        result.then(lambda result: (called.append(result.get()), over.set()))
        answer.update(value=result.get(timeout=30))
        assert over.wait(30)
        answer.update(called=called[0])
    answer.update(
        loops=drain_loops(green=True),
        drainer=statistics().drainer,
        pending=statistics().pending,
        connects=statistics().connects,
        queue=getattr(app.backend, "oid", None),
    )
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
