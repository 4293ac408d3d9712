"""Fixtures for the tests of applications. Ask for them in a ``conftest.py``::

pytest_plugins = ["celery_green_drain.pytest"]
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from .clock import monotonic
from .inspection.report import statistics
from .signals import callback_raised

__all__ = ("green_drain_app", "green_drain_config", "green_drain_worker")

#: Seconds that callbacks have to end after a test.
PATIENCE = 10.0


@pytest.fixture
def green_drain_config() -> dict[str, Any]:
    """Settings of Celery for the app, beside or in place of its own: to be overridden."""
    return {}


@pytest.fixture
def green_drain_app(green_drain_config: dict[str, Any]) -> Iterator[Celery]:
    """An app whose broker is the memory of this process, with the drainer that fits it.

    At the end of the test its callbacks are waited for, and the test fails where one has raised, or
    has not come.
    """
    app = Celery("green_drain", broker="memory://", backend="rpc://", set_as_current=False)
    app.conf.update(
        {
            "result_drainer": "auto",
            "broker_transport_options": {"polling_interval": 0.01},
            **green_drain_config,
        }
    )
    raised: list[str] = []

    def note(sender: Any, name: str, exception: BaseException, **kwargs: Any) -> None:
        if sender is app:
            raised.append(f"A callback of {name} has raised {exception!r}.")

    callback_raised.connect(note)
    try:
        yield app
        late = _wait_for_callbacks(app)
    finally:
        callback_raised.disconnect(note)
        consumer = app.backend.result_consumer
        consumer.stop()
        app.close()
    if raised or late:
        pytest.fail("\n".join([*raised, *late]), pytrace=False)


def _wait_for_callbacks(app: Celery) -> list[str]:
    """Wait until none is to come and none runs; say which are late."""
    deadline = monotonic() + PATIENCE
    while True:
        figures = statistics(app)
        if not (figures.callbacks_pending or figures.callbacks_running):
            return []
        if monotonic() > deadline:
            return [
                f"Within {PATIENCE:g} s of the test's end {figures.callbacks_pending} results with "
                f"callbacks have not come, and {figures.callbacks_running} callbacks still run."
            ]
        time.sleep(0.01)


@pytest.fixture
def green_drain_worker(green_drain_app: Celery) -> Iterator[Any]:
    """A worker of that app, in threads of this process.

    It knows the shared tasks that are imported, and those that the app has when it starts.
    """
    options = {"pool": "threads", "concurrency": 4, "loglevel": "WARNING"}
    with start_worker(green_drain_app, perform_ping_check=False, **options) as worker:
        yield worker
