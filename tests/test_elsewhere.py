"""A worker that stores results in another database of the same Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, uuid

from celery_green_drain.consumers.redis.elsewhere import TRIES

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


#: Over one connection, and over two.
PROTOCOLS = [3, 2]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_worker_on_another_database(
    protocol: int,
    make: Callable[..., Celery],
    results: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make(results=f"{results.url('web', database=3)}&protocol={protocol}")
    elsewhere = storing(app, by=make(results=results.url("web", database=5)))
    result = await_by_message(app, elsewhere)
    wait_until(lambda: "does not hold it" in caplog.text, "the line in the log")
    assert f"task '{result.id}'" in caplog.text
    assert f"{results.port}/3" in caplog.text
    assert "in database 5 of that server" in caplog.text
    assert "same result_backend" in caplog.text
    await_by_message(app, elsewhere)
    assert caplog.text.count("does not hold it") == 1
    reads_its_own(app)


def test_a_worker_on_the_same_one(
    make: Callable[..., Celery], caplog: pytest.LogCaptureFixture
) -> None:
    app = make()
    await_by_message(app, storing(app))
    wait_until(lambda: app.backend.result_consumer.check.over, "the look")
    assert "does not hold it" not in caplog.text


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_result_that_somebody_removed(
    protocol: int,
    make: Callable[..., Celery],
    results: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is nowhere, which says nothing of the worker, so the next ones are looked for."""
    app = make(results=f"{results.url('web', database=3)}&protocol={protocol}")
    check = app.backend.result_consumer.check
    for _ in range(TRIES - 1):
        await_by_message(app, storing(app)).forget()
        wait_until(lambda: not check.begun, "the search")
        assert not check.over
    reads_its_own(app)
    await_by_message(app, storing(app)).forget()
    wait_until(lambda: check.over, "the last search")
    assert "does not hold it" not in caplog.text
    reads_its_own(app)


def test_a_connection_that_ends_before_the_look(
    make: Callable[..., Celery], results: RedisServer
) -> None:
    app = make()
    consumer = app.backend.result_consumer
    await_by_message(app, storing(app))
    assert consumer.check.begun
    for client in results.clients():
        results.probe.client_kill(client["addr"])
    wait_until(lambda: not consumer.check.begun, "a new connection")
    await_by_message(app, storing(app))
    wait_until(lambda: consumer.check.over, "the look at the next one")


def reads_its_own(app: Celery) -> None:
    """The connection that looked for a result is back in its database."""
    assert app.AsyncResult(storing(app)(7)).get(timeout=20) == 7
    assert app.backend.result_consumer.statistics().outages == 0
