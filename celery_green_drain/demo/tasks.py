"""The Celery app and its tasks: what the worker and the web application share."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

app = Celery(
    "celery_green_drain.demo",
    broker=os.environ.get("CELERY_GREEN_DRAIN_DEMO_BROKER", "redis://127.0.0.1:6379/0"),
    backend=os.environ.get("CELERY_GREEN_DRAIN_DEMO_RESULTS", "redis://127.0.0.1:6379/1"),
)
app.conf.update(
    broker_connection_retry_on_startup=True,
    result_expires=600,
    # Else a worker loses what it has to report while Redis is away.
    result_backend_always_retry=True,
    # A Redis given with --redis may serve other Celery apps as well.
    task_default_queue="celery_green_drain_demo",
)

#: How often a task reports its progress.
STEPS = 5


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task(bind=True, throws=(ValueError,))
def square(self: Any, number: int, seconds: float = 0.0, fails: bool = False) -> dict[str, Any]:
    """Return the square of *number* after *seconds* of work, or fail then."""
    for step in range(STEPS):
        self.update_state(state="PROGRESS", meta={"part": step / STEPS})
        time.sleep(seconds / STEPS)
    if fails:
        raise ValueError(f"{number} was asked to fail")
    return {"square": number * number, "ended": time.time()}
