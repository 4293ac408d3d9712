"""The tasks of the tests, and the Celery app that a worker runs them with."""

from __future__ import annotations

import json
import os
import time
import weakref
from typing import Any

from celery import Celery, current_task, group
from celery.backends.rpc import RPCBackend

from celery_green_drain import TaskContextError, copy_current_task_context, watch

from .green import crowd, spawn


class Picky(Exception):
    """An exception that cannot be rebuilt from what the store keeps of it."""

    def __init__(self, one: int, *, two: int) -> None:
        super().__init__(one)
        self.two = two


def add(x: int, y: int) -> int:
    return x + y


def total(numbers: list[int]) -> int:
    return sum(numbers)


def fail(message: str = "on purpose") -> None:
    raise ValueError(message)


def fail_picky() -> None:
    raise Picky(1, two=2)


def nap(seconds: float, value: Any = None) -> Any:
    time.sleep(seconds)
    return value


def progress(self: Any, steps: int, pause: float = 0.02) -> int:
    """Report each step as a state of its own."""
    for step in range(steps):
        self.update_state(state="PROGRESS", meta={"step": step})
        time.sleep(pause)
    return steps


def spread(self: Any, count: int) -> Any:
    """Return the results of further tasks, for ``collect()``."""
    return group(self.app.tasks["add"].s(i, i) for i in range(count))()


def watching(self: Any) -> str:
    """Watch another task, which is refused; return why."""
    try:
        watch(self.app.AsyncResult("1"))
    except RuntimeError as exc:
        return str(exc).strip().splitlines()[0]
    return "not refused"


def branching(self: Any, count: int) -> Any:
    """Report from children, and from children of children; return what they saw."""

    def leaf(number: int) -> list[Any]:
        self.update_state(state="PROGRESS", meta={"leaf": number})
        return [current_task.name, current_task.request.id, self.request.id]

    def branch(number: int) -> Any:
        nested = copy_current_task_context(leaf)
        return [leaf(2 * number), *crowd(1, lambda _: nested(2 * number + 1))]

    return crowd(count, copy_current_task_context(branch))


def reporting(self: Any) -> str:
    """Report from children that know the id alone; return what one is told that does not."""
    task_id = self.request.id

    def child(number: int) -> None:
        self.update_state(task_id=task_id, state="PROGRESS", meta={"child": number})

    assert crowd(3, child) == [None] * 3
    (refused,) = crowd(1, lambda _: self.update_state(state="PROGRESS", meta={}))
    return f"{type(refused).__name__}: {refused}"


def leaving(self: Any) -> None:
    """Return, and leave a child behind, which tells the log how it fares."""

    @copy_current_task_context
    def child() -> None:
        task_id = self.request.id
        print(f"{task_id} begins", flush=True)
        while current_task:
            time.sleep(0.01)
        uses = {
            "current_task": lambda: current_task.name,
            "request": lambda: self.request.id,
            "update_state": lambda: self.update_state(state="PROGRESS", meta={}),
            "copy": lambda: copy_current_task_context(print),
        }
        for name, use in uses.items():
            try:
                use()
            except TaskContextError as exc:
                print(f"{task_id} {name}: {exc}", flush=True)
        print(f"{task_id} ends", flush=True)

    spawn(child)
    time.sleep(0.1)


def ask(self: Any, x: int) -> Any:
    """Wait for another task, for which there has to be another worker process."""
    return self.app.tasks["add"].delay(x, 1).get(timeout=30, disable_sync_subtasks=False)


def ignored() -> int:
    return 1


def make_app(broker: str, results: str, drained_from: str = "", **conf: Any) -> Celery:
    """An app with these tasks. What a worker and a client have in common.

    :param drained_from: a broker that the drainer alone connects to, such as behind a proxy.
    """
    app = Celery("tests", broker=broker, backend=results, set_as_current=False)
    defaults = {
        "broker_connection_retry_on_startup": True,
        "task_ignore_result": False,
        "worker_prefetch_multiplier": 64,
        "worker_hijack_root_logger": False,
    }
    app.conf.update({**defaults, **conf})
    for function in (add, total, fail, fail_picky, nap):
        app.task(name=function.__name__)(function)
    for function in (ask, progress, spread, watching, branching, leaving, reporting):
        app.task(name=function.__name__, bind=True)(function)
    app.task(name="ignored", ignore_result=True)(ignored)
    app.finalize()
    if drained_from:
        weak = weakref.proxy(app)  # as the loop keeps the consumer, and is not to keep the app
        consumer = app.backend.result_consumer
        consumer.connect = lambda: weak.connection_for_write(drained_from)
    return app


if "TESTS_BROKER" in os.environ:
    persistent = bool(os.environ.get("TESTS_PERSISTENT"))
    if persistent:
        # Celery's own worker gives a result up after 20 s, and a broker may take longer to start.
        RPCBackend.retry_policy = {**RPCBackend.retry_policy, "max_retries": 300}
    app = make_app(
        os.environ["TESTS_BROKER"],
        os.environ["TESTS_RESULTS"],
        # To tell so fails the task where the broker is away.
        task_track_started=not persistent,
        result_backend_always_retry=True,
        result_persistent=persistent,
        result_drainer=os.environ.get("TESTS_DRAINER") or None,
        task_default_queue=os.environ.get("TESTS_QUEUE", "celery"),
        broker_transport_options={"confirm_publish": persistent},
        **json.loads(os.environ.get("TESTS_CONF", "{}")),
    )
    app.set_current()
