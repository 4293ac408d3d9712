"""Ways to ask a running process for its report: over HTTP, and with a signal."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

from celery import current_app

from .report import report

__all__ = ("install_signal_report", "wsgi_report")

#: The descriptor of the standard error.
STDERR = 2


def wsgi_report(app: Any) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """Return a WSGI application that answers with the report of the Celery app *app*.

    As text, or as JSON where the request accepts ``application/json`` or has the query ``json``.
    It shows task ids, addresses and versions, so keep it from strangers.
    """

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        accepted = environ.get("HTTP_ACCEPT", ""), environ.get("QUERY_STRING", "")
        if "application/json" in accepted[0] or accepted[1] == "json":
            kind, body = "application/json", json.dumps(report(app))
        else:
            kind, body = "text/plain; charset=utf-8", f"{report(app)}\n"
        data = body.encode()
        headers = [("Content-Type", kind), ("Content-Length", str(len(data)))]
        start_response("200 OK", [*headers, ("Cache-Control", "no-store")])
        return [data]

    return application


def install_signal_report(number: int = signal.SIGUSR2, app: Any = None) -> None:
    """Have the signal *number* print the report of *app* to the standard error.

    :param app: a Celery app; None: the current one, when the signal comes.
    :raises ValueError: outside of the main thread, as ``signal.signal()`` does.
    """

    def show(signum: int, frame: Any) -> None:
        # Not by print(), which the signal may have interrupted.
        data = f"{report(app or current_app)}\n".encode()
        while data:
            data = data[os.write(STDERR, data) :]

    signal.signal(number, show)
