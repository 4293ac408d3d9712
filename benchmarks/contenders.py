"""The apps that are compared."""

from __future__ import annotations

from typing import Any

from celery import Celery

from .plan import Measurement

__all__ = ("make_app",)

#: What makes a contender of Celery; anything else is this package.
SETTINGS: dict[str, dict[str, Any]] = {
    "stock": {},
    "tuned": {"result_backend_thread_safe": True, "redis_max_connections": 20_000},
}


def add(x: int, y: int) -> int:
    return x + y


def make_app(what: Measurement, addresses: dict[str, str], name: str = "web") -> Celery:
    """The app of a measurement, with a task that whoever answers knows.

    :param name: that of its connections to a Redis that keeps results.
    """
    broker, store = addresses["broker"], addresses.get(what.store, "")
    if what.store == "redis":
        store += f"?client_name={name}"
    elif what.store == "rabbitmq":
        broker, store = store, "rpc://"
    app = Celery("benchmarks", broker=broker, backend=store, set_as_current=False)
    app.conf.update(SETTINGS.get(what.contender, {"result_drainer": what.library}))
    app.task(name="add")(add)
    app.finalize()
    return app
