"""Fixtures: the servers once a session, an app for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, uuid

from .green import DRAINER, MODE, wait_until
from .servers import RedisServer, Worker
from .stores import configure_django
from .tasks import make_app


def pytest_report_header() -> str:
    return f"mode: {MODE}"


@pytest.fixture(scope="session")
def broker() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.end()


@pytest.fixture(scope="session")
def results() -> Iterator[RedisServer]:
    """The result store: apart from the broker, so that what it counts is for results."""
    server = RedisServer()
    yield server
    server.end()


@pytest.fixture(scope="session")
def worker(broker: RedisServer, results: RedisServer) -> Iterator[Worker]:
    worker = Worker(broker.url(), results.url("worker"))
    yield worker
    worker.end()


@pytest.fixture(scope="session")
def django() -> Iterator[Path]:
    """The folder of a Django project, which this process is then part of."""
    folder = configure_django()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def make(broker: RedisServer, results: RedisServer) -> Iterator[Callable[..., Celery]]:
    """Make an app on the session's servers, with further settings."""
    made: list[Celery] = []

    def make(**conf: Any) -> Celery:
        settings = {"result_drainer": DRAINER, **conf}
        url = settings.pop("results", results.url("web"))
        made.append(make_app(broker.url(), url, **settings))
        return made[-1]

    yield make
    for app in made:
        if app._backend_cache is not None:
            app.backend.result_consumer.stop()
            app.backend.client.connection_pool.disconnect()
        app.close()
    wait_until(lambda: not results.clients(), "the end of all connections of the test")


@pytest.fixture
def app(make: Callable[..., Celery]) -> Celery:
    return make()


@pytest.fixture
def store(app: Celery) -> Callable[..., str]:
    """Store a result, as a worker does; return its task id."""

    def store(value: Any = 42, state: str = "SUCCESS", task_id: str | None = None) -> str:
        task_id = task_id or uuid()
        app.backend.store_result(task_id, value, state)
        return task_id

    return store
