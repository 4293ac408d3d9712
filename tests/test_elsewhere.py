"""A worker that stores results in another database of the same Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, uuid

from .conftest import storing
from .green import spawn_get, wait_until
from .servers import RedisServer


def await_by_message(app: Celery, store: Callable[..., str]) -> Any:
    """Wait for a result before it is stored."""
    result = app.AsyncResult(uuid())
    outcome = spawn_get(result)
    statistics = app.backend.result_consumer.statistics
    wait_until(lambda: statistics().pending and statistics().connections, "the wait")
    # It has been looked for, and nothing was found.
    assert app.AsyncResult(result.id).state == "PENDING"
    store(5, task_id=result.id)
    assert wait_until(lambda: outcome, "the result") == [5]
    return result


def test_a_worker_on_another_database(
    make: Callable[..., Celery], results: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    app = make(results=results.url("web", database=3))
    elsewhere = storing(app, by=make(results=results.url("web", database=5)))
    result = await_by_message(app, elsewhere)
    wait_until(lambda: "does not hold it" in caplog.text, "the line in the log")
    assert f"task '{result.id}'" in caplog.text
    assert f"{results.port}/3" in caplog.text
    assert "in database 5 of that server" in caplog.text
    assert "same result_backend" in caplog.text
    await_by_message(app, elsewhere)
    assert caplog.text.count("does not hold it") == 1


def test_a_worker_on_the_same_one(
    make: Callable[..., Celery], caplog: pytest.LogCaptureFixture
) -> None:
    app = make()
    await_by_message(app, storing(app)).forget()
    check = app.backend.result_consumer.check
    assert not check.over  # a result that was removed says nothing
    await_by_message(app, storing(app))
    wait_until(lambda: check.over, "the look")
    assert "does not hold it" not in caplog.text
