"""Fixtures: one server at a time, a worker for it, an app for each test."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from ..green import DRAINER
from ..servers import RedisServer, Worker
from ..tasks import make_app
from .servers import Server, kinds, others


@pytest.fixture(scope="session", params=list(kinds()))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each server, for all tests that ask for it, before the next one starts."""
    server = {**kinds(), **others()}[request.param]()
    yield server
    server.end()


@pytest.fixture(scope="session")
def worker(broker: RedisServer, server: Server) -> Iterator[Worker]:
    """A stock worker that stores there."""
    worker = Worker(
        broker.url(),
        server.url().replace("green+", ""),
        queue=type(server).__name__,
        concurrency=3,  # each has clients of its own, which take long to make
        TESTS_QUEUE=type(server).__name__,
        TESTS_CONF=json.dumps(server.conf_for()),
        **server.client_environment(),
    )
    yield worker
    worker.end()


Make = Callable[..., Celery]


@pytest.fixture
def make(broker: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make an app on a server, with further settings."""
    made: list[Celery] = []

    def make(server: Server, url: str = "", port: int = 0, **conf: Any) -> Celery:
        for name, value in server.client_environment(port).items():
            monkeypatch.setenv(name, value)
        settings = {
            "result_drainer": DRAINER,
            "task_default_queue": type(server).__name__,
            **server.conf_for(port),
            **conf,
        }
        url = url or server.url(port)
        made.append(make_app(broker.url(), url, **settings))
        return made[-1]

    # No credentials of this machine, and nobody asked for some.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    yield make
    for app in made:
        app.backend.result_consumer.stop()
        app.close()


@pytest.fixture
def app(make: Make, server: Server) -> Celery:
    return make(server)
