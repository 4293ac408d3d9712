"""What cannot be read, or is hard to: on Redis and on RabbitMQ."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, uuid
from celery.exceptions import TimeoutError
from celery.result import ResultSet

from .conftest import Line
from .green import spawn, spawn_get, wait_until
from .rabbitmq import RabbitServer
from .servers import RedisServer

pytestmark = pytest.mark.kinds("redis", "rpc, rabbitmq")


@pytest.fixture
def send(
    app: Celery, request: pytest.FixtureRequest, store: Callable[..., str]
) -> Callable[[str, bytes], None]:
    """Send bytes as the result of a task: in the store and as its message, or to the queue."""
    if hasattr(app.backend, "client"):

        def to_redis(task_id: str, body: bytes) -> None:
            key = app.backend.get_key_for_task(task_id)
            app.backend.client.set(key, body)
            app.backend.client.publish(key, body)

        return to_redis
    store()  # the queue is there
    rabbit: RabbitServer = request.getfixturevalue("rabbit")
    return lambda task_id, body: rabbit.publish(app.backend.oid, [(body, task_id)])


def meta(task_id: str, **other: Any) -> bytes:
    state = {"task_id": task_id, "status": "SUCCESS", "result": 1, "traceback": None}
    return json.dumps({**state, **other}).encode()


BAD: dict[str, Callable[[str], bytes]] = {
    "nothing": lambda task_id: b"",
    "truncated": lambda task_id: meta(task_id)[:-9],
    "compressed": lambda task_id: zlib.compress(meta(task_id)),
    "pickle": lambda task_id: b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00N.",
    "nested": lambda task_id: b"[" * 200_000,
    "no status": lambda task_id: json.dumps({"task_id": task_id, "result": 1}).encode(),
    "children": lambda task_id: meta(task_id, children=[[5]]),
}


@pytest.mark.parametrize("bad", BAD)
def test_its_waiters_are_told_and_others_are_served(
    app: Celery, store: Callable[..., str], send: Callable[[str, bytes], None], bad: str
) -> None:
    task_id, other = uuid(), uuid()
    errors: list[Any] = []
    got: list[Any] = []

    def get() -> None:
        try:
            got.append(app.AsyncResult(task_id).get(timeout=30))
        except Exception as exc:
            errors.append(exc)

    spawn(get)
    app.AsyncResult(task_id).then(got.append, errors.append)
    app.AsyncResult(other).then(lambda result: got.append(result.get(timeout=0)))
    consumer = app.backend.result_consumer
    wait_until(lambda: consumer.statistics().pending == 2, "the waits")
    send(task_id, BAD[bad](task_id))
    wait_until(lambda: len(errors) == 2, "the errors")
    store("fine", task_id=other)
    wait_until(lambda: got == ["fine"], "the other result")
    assert consumer.statistics().connects == 1
    assert consumer.statistics().unreadable >= 1


@pytest.mark.parametrize(
    "exception",
    [
        {"exc_type": "NoSuchError", "exc_module": "no.such.module", "exc_message": ["lost"]},
        {"exc_type": "Picky", "exc_module": "tests.tasks", "exc_message": [1]},
        {"exc_type": "system", "exc_module": "os", "exc_message": ["false"]},
        {"exc_type": "ValueError", "exc_module": "builtins", "exc_message": {"odd": [1]}},
        ["neither"],
    ],
    ids=["no such module", "other arguments", "no exception", "odd arguments", "no dictionary"],
)
def test_an_exception_that_cannot_be_rebuilt(
    app: Celery, store: Callable[..., str], send: Callable[[str, bytes], None], exception: Any
) -> None:
    """The waiter gets some exception, and nothing is run that is none."""
    task_id = uuid()
    send(task_id, meta(task_id, status="FAILURE", result=exception))
    with pytest.raises(Exception) as caught:  # noqa: PT011
        app.AsyncResult(task_id).get(timeout=20)
    assert "The operation timed out" not in str(caught.value)
    assert app.AsyncResult(store(2)).get(timeout=20) == 2


@pytest.mark.parametrize("value", [None, {}, "text", {"custom": "why"}])
def test_a_failure_without_an_exception(
    app: Celery, store: Callable[..., str], send: Callable[[str, bytes], None], value: Any
) -> None:
    """As ``update_state(state="FAILURE", meta=value)`` stores it: the state counts."""
    task_id = uuid()
    send(task_id, meta(task_id, status="FAILURE", result=value))
    error = spawn_get(app.AsyncResult(task_id), timeout=20)
    wait_until(lambda: error, "the error")
    assert isinstance(error[0], Exception)
    assert not isinstance(error[0], (AttributeError, TimeoutError)), error
    good: list[Any] = []
    bad: list[Any] = []
    app.AsyncResult(task_id).then(good.append, bad.append)
    ResultSet([app.AsyncResult(task_id), app.AsyncResult(store(1))]).then(good.append, bad.append)
    wait_until(lambda: len(bad) == 2, "both errors")
    assert all(isinstance(error, Exception) for error in bad)
    assert good == []


def named(text: str) -> Any:
    """*text* as the value of an enum, which ``str()`` knows by its name alone."""
    return Enum("Job", {"NIGHTLY": text}, type=str).NIGHTLY  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [int, UUID, bytes, named])
def test_ids_that_are_no_plain_text(
    app: Celery, store: Callable[..., str], kind: Callable[[Any], Any]
) -> None:
    task_id = uuid() if kind is UUID else "1234567"
    if kind is bytes:
        given: Any = task_id.encode()
    else:
        given = kind(task_id)
    called: list[Any] = []
    app.AsyncResult(given).then(lambda result: called.append(result.get(timeout=0)))
    outcome = spawn_get(app.AsyncResult(task_id))
    wait_until(lambda: app.backend.result_consumer.statistics().pending == 1, "the wait")
    store(7, task_id=task_id)
    wait_until(lambda: called == [7] == outcome, "the result")
    app.AsyncResult(task_id).forget()


def test_odd_task_ids(app: Celery, store: Callable[..., str]) -> None:
    for task_id in ("with space", "ünïcode ☃", "new\nline", "*", "a" * 250, "%s{0}"):
        called: list[Any] = []
        app.AsyncResult(task_id).then(lambda result: called.append(result.get(timeout=0)))  # noqa: B023
        store(7, task_id=task_id)
        assert app.AsyncResult(task_id).get(timeout=20) == 7
        wait_until(lambda: called == [7], f"the callback of {task_id!r}")  # noqa: B023


def test_a_hundred_megabytes(line: Line, results: RedisServer) -> None:
    """Redis closes a subscriber's connection that is so far behind: it is found in the store."""
    app, store = line.connect()
    value = "x" * 100_000_000
    task_id = uuid()
    called: list[int] = []
    app.AsyncResult(task_id).then(lambda result: called.append(len(result.get(timeout=0))))
    wait_until(lambda: app.backend.result_consumer.statistics().pending, "the wait")
    store(value, task_id=task_id)
    wait_until(lambda: called == [100_000_000], "the callback", timeout=60)
    app.AsyncResult(task_id).forget()
    assert app.AsyncResult(store(1)).get(timeout=20) == 1
