"""A worker with green threads that shares the setting, and whose tasks wait for tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from celery_green_drain.backends.redis import MAX_CONNECTIONS

from .green import DRAINER, GREEN, MODE, crowd
from .rabbitmq import RabbitServer
from .servers import RedisServer, Worker

pytestmark = pytest.mark.skipif(not GREEN, reason="one worker for each green library")

#: Tasks of the worker that run at once.
SLOTS = 300

#: Who asks at once, each time a task that asks another one.
CALLERS = 200


def serve(broker: str, results: str) -> Worker:
    return Worker(
        broker,
        results,
        pool=MODE,
        queue="green",
        drainer=DRAINER,
        concurrency=SLOTS,
        options=("--time-limit", "60"),
        TESTS_QUEUE="green",
    )


@pytest.fixture
def green_worker(broker: RedisServer, results: RedisServer) -> Iterator[Worker]:
    worker = serve(broker.url(database=14), results.url("green"))
    yield worker
    worker.end()


@pytest.fixture
def green_rpc_worker(rabbit: RabbitServer) -> Iterator[Worker]:
    worker = serve(rabbit.url(), "rpc://")
    yield worker
    worker.end()


def ask_all(app: Celery, times: int, callers: int = CALLERS) -> None:
    ask = app.tasks["ask"]

    def caller(number: int) -> list[Any]:
        return [ask.delay(number * times + i).get(timeout=60) for i in range(times)]

    outcomes = crowd(callers, caller)
    assert outcomes == [[n * times + i + 1 for i in range(times)] for n in range(callers)]


def test_a_thousand_tasks(
    make: Callable[..., Celery],
    green_worker: Worker,
    broker: RedisServer,
    results: RedisServer,
) -> None:
    app = make(broker=broker.url(database=14), task_default_queue="green")
    for _ in range(3):
        ask_all(app, 1)
        # Those of the pool, and the drainer's.
        assert len(results.clients("green")) <= MAX_CONNECTIONS + 2
    # The worker stores what nobody waits for as well.
    last = app.tasks["add"].delay(1, 1)
    assert last.get(timeout=30) == 2
    assert app.backend.client.get(app.backend.get_key_for_task(last.id)) is not None
    assert "Traceback" not in green_worker.process.output()


def test_tasks_over_rpc(
    make: Callable[..., Celery], green_rpc_worker: Worker, rabbit: RabbitServer
) -> None:
    app = make(broker=rabbit.url(), results="rpc://", task_default_queue="green")
    ask_all(app, 1, callers=50)
    queues = rabbit.queues()
    ask_all(app, 1, callers=50)
    assert rabbit.queues() == queues
    seen: list[Any] = []
    app.tasks["reporting"].apply_async(countdown=1).get(timeout=30, on_message=seen.append)
    assert [each["status"] for each in seen].count("PROGRESS") == 3
    assert "Traceback" not in green_rpc_worker.process.output()
