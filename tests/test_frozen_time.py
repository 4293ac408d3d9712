"""A test of the user's that stops the time: what waits here goes by a clock that goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery.exceptions
import freezegun
import pytest
from celery import Celery, uuid

import celery_green_drain
from celery_green_drain.signals import connection_lost

from .conftest import Line
from .green import spawn, spawn_get, wait_until


@pytest.fixture
def lost() -> Iterator[Callable[[], bool]]:
    """Wait until the connection is lost."""
    event = threading.Event()
    connection_lost.connect(lambda **kwargs: event.set(), weak=False, dispatch_uid="a test")
    yield lambda: event.wait(20)
    connection_lost.disconnect(dispatch_uid="a test")


def test_a_store_is_looked_at_again(make: Callable[..., Celery], tmp_path: Path) -> None:
    app = make(results=tmp_path.as_uri())
    task_id, looked = uuid(), threading.Event()
    with freezegun.freeze_time("2026-01-01"):
        outcome = spawn_get(app.AsyncResult(task_id))
        app.AsyncResult(task_id).then(lambda result: looked.set())
        assert not looked.wait(0.5)
        app.backend.store_result(task_id, 1, "SUCCESS")
        assert looked.wait(20)
    wait_until(lambda: outcome == [1], "the result")


def test_a_timeout_comes(app: Celery) -> None:
    outcome: list[Any] = []
    over = threading.Event()

    def wait() -> None:
        try:
            app.AsyncResult(uuid()).get(timeout=0.5)
        except celery.exceptions.TimeoutError as exc:
            outcome.append(exc)
        over.set()

    with freezegun.freeze_time("2026-01-01"):
        spawn(wait)
        assert over.wait(20)
    assert len(outcome) == 1


def test_ages_are_told(app: Celery) -> None:
    app.AsyncResult(uuid()).then(print)
    wait_until(lambda: app.backend.result_consumer.statistics().pending, "the callback")
    with freezegun.freeze_time("2026-01-01"):
        (pending,) = celery_green_drain.report(app)["pending"]
        assert 0 <= pending["age"] < 100


def test_an_outage_lasts_no_longer(line: Line, lost: Callable[[], bool]) -> None:
    app, store = line.connect()
    assert app.AsyncResult(store(1)).get(timeout=20) == 1
    with freezegun.freeze_time("2026-01-01"):
        line.proxy.refuse()
        assert lost()
        outcome = spawn_get(app.AsyncResult(store(2)))
        line.proxy.pass_on()
    wait_until(lambda: outcome == [2], "the result")
