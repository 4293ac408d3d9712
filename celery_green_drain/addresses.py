"""Addresses of servers as they may be shown: without what is secret."""

from __future__ import annotations

import re
from typing import Any

__all__ = ("broker_address", "masked", "result_address")

#: Values of a query that are secret, by their names.
SECRET = re.compile(r"([?&][^=&;]*(?:password|secret|token|key)[^=&;]*=)[^&;]*", re.IGNORECASE)

#: Between two addresses of a list.
LIST = re.compile(r"([;,])(?=[\w+.-]+://)")

#: The password of one address: up to the last "@", as it may hold one itself.
PASSWORD = re.compile(r"^([\w+.-]+://[^:@/]*):[^?]*@")


def masked(url: Any) -> str:
    """Return *url*, or several of them as Celery takes them, with stars for each password."""
    if isinstance(url, (list, tuple)):
        return ";".join(masked(one) for one in url)
    return "".join(
        SECRET.sub(r"\1**", PASSWORD.sub(r"\1:**@", part)) for part in LIST.split(str(url or ""))
    )


def result_address(app: Any) -> str:
    """Where the results of *app* come from: its store, or its broker. Connects to nothing."""
    url = masked(app.conf.result_backend)
    return f"rpc over {broker_address(app)}" if url.startswith("rpc") else url


def broker_address(app: Any) -> str:
    """Where *app* sends to, and receives results. Connects to nothing."""
    conf = app.conf
    return masked(conf.broker_write_url or conf.broker_url or "amqp://")
