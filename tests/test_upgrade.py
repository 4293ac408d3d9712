"""Web and worker with different versions of Celery, which ``scripts/matrix`` installs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import celery
import pytest
from celery import Celery, chain, chord, group

from .green import DRAINER, crowd, size, wait_until
from .servers import WORKER_PYTHON, Worker
from .tasks import make_app

pytestmark = pytest.mark.skipif(
    sys.executable == WORKER_PYTHON, reason="scripts/matrix runs it, with workers of another Celery"
)


@pytest.fixture(scope="module", params=("redis", "rpc", "sqlalchemy"))
def urls(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Broker and result backend of each way that results come, with a worker there."""
    if request.param == "sqlalchemy" and celery.VERSION < (5, 7):
        pytest.skip("a Celery this old cannot read what 5.7 has written to a database")
    if request.param == "rpc":
        urls = (request.getfixturevalue("rabbit").url(), "rpc://")
    else:
        broker = request.getfixturevalue("broker").url(database=5)
        file = tmp_path_factory.mktemp("results") / "results.sqlite3"
        store = request.getfixturevalue("results").url("web", database=5)
        urls = (broker, store if request.param == "redis" else f"db+sqlite:///{file}")
    worker = Worker(*urls)
    yield urls
    worker.end()


@pytest.fixture
def app(urls: tuple[str, str]) -> Iterator[Celery]:
    app = make_app(*urls, result_drainer=DRAINER)
    yield app
    app.backend.result_consumer.stop()
    app.close()


def test_results(app: Celery) -> None:
    count = size(200, 50)
    assert crowd(count, lambda i: app.tasks["add"].delay(i, 1).get(timeout=30)) == list(
        range(1, count + 1)
    )


def test_callbacks_failures_and_states(app: Celery) -> None:
    values: list[Any] = []
    errors: list[Any] = []
    app.tasks["nap"].delay(0.1, "rested").then(lambda result: values.append(result.get()))
    app.tasks["fail"].delay("bad luck").then(values.append, on_error=errors.append)
    wait_until(lambda: values == ["rested"] and errors, "both callbacks")
    assert str(errors[0]) == "bad luck"
    messages: list[Any] = []
    assert app.tasks["progress"].delay(3).get(timeout=30, on_message=messages.append) == 3
    assert messages[-1]["status"] == "SUCCESS"


def test_canvas(app: Celery) -> None:
    add, total = app.tasks["add"], app.tasks["total"]
    assert chain(add.s(1, 2), add.s(3))().get(timeout=30) == 6
    assert group(add.s(i, i) for i in range(5))().get(timeout=30) == [0, 2, 4, 6, 8]
    if "rpc" not in app.backend.as_uri():  # no chords over it, in any Celery
        assert chord([add.s(i, i) for i in range(5)], total.s())().get(timeout=30) == 20


def test_forgotten_and_revoked(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    result = app.tasks["add"].delay(1, 1)
    assert result.get(timeout=30) == 2
    result.forget()
    assert app.AsyncResult(result.id).state == "PENDING"
    assert "cannot be read" not in caplog.text
