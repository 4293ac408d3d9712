"""A web application as any other, for a real gunicorn."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from .green import drain_loops
from .tasks import make_app

app = make_app(
    os.environ["SITE_BROKER"],
    os.environ["SITE_RESULTS"],
    result_drainer="gevent",
)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Add 1 to ``x``, in a task, and answer with what ``get()`` and ``then()`` say of it."""
    from gevent.event import AsyncResult

    x = int(parse_qs(environ["QUERY_STRING"])["x"][0])
    result = app.tasks["add"].delay(x, 1)
    called = AsyncResult()
    result.then(lambda result: called.set(result.get()))
    statistics = app.backend.result_consumer.statistics
    answer = {
        "value": result.get(timeout=30),
        "called": called.get(timeout=30),
        "pid": os.getpid(),
        "loops": drain_loops(green=True),
        "drainer": statistics().drainer,
        "queue": getattr(app.backend, "oid", None),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
