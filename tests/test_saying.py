"""The log's lines of on and off, and what errors say of the task and of the drainer."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, uuid
from celery.backends import asynchronous
from celery.exceptions import TimeoutError
from celery.result import ResultSet

import celery_green_drain
from celery_green_drain import DrainerStopped, ResultEvicted, ResultNeverCame
from celery_green_drain.addresses import masked

from .green import MODE, spawn_get, wait_until
from .servers import free_port
from .tasks import make_app

#: The class of the drainer that serves in this mode.
LABEL = {"gevent": "GeventDrainer", "eventlet": "EventletDrainer"}.get(MODE, "ThreadDrainer")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]


def test_on_and_off(app: Celery, store: Callable[..., str], caplog: Any) -> None:
    caplog.set_level(logging.INFO, "celery_green_drain")
    for _ in range(2):
        assert app.AsyncResult(store(1)).get(timeout=20) == 1
    (on,) = [line for line in lines(caplog) if " drains " in line]
    begin = f"celery_green_drain {celery_green_drain.__version__}: {LABEL} drains "
    assert on.startswith(begin)
    assert f"the app '{app.main}' from redis://127.0.0.1:" in on
    for _ in range(2):
        app.backend.result_consumer.stop()
    (off,) = [line for line in lines(caplog) if "no longer" in line]
    assert off == f"{LABEL} no longer drains {on.partition(' drains ')[2]}"


def test_on_with_a_drainer_of_somebody_else(make: Callable[..., Celery], caplog: Any) -> None:
    caplog.set_level(logging.INFO, "celery_green_drain")
    app = make(result_drainer=asynchronous.Drainer)
    app.backend.store_result("somebody's", 1, "SUCCESS")
    assert app.AsyncResult("somebody's").get(timeout=20) == 1
    assert [line for line in lines(caplog) if ": Drainer drains " in line]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@host:6379/1", "redis://:**@host:6379/1"),
        ("amqp://shop:sec@ret@host//", "amqp://shop:**@host//"),
        ("redis://host/1?password=secret&x=1", "redis://host/1?password=**&x=1"),
        (["amqp://a:secret@b//", "amqp://c:secret@d//"], "amqp://a:**@b//;amqp://c:**@d//"),
    ],
)
def test_passwords_are_masked(url: Any, shown: str) -> None:
    assert masked(url) == shown


def timeout_of(result: Any, timeout: float = 0.3, **options: Any) -> str:
    with pytest.raises(TimeoutError) as caught:
        result.get(timeout=timeout, **options)
    return str(caught.value)


@pytest.mark.parametrize("options", [{}, {"on_message": len}, {"on_interval": list}])
def test_timeout_of_a_task_of_which_nothing_is_known(app: Celery, options: Any) -> None:
    text = timeout_of(app.AsyncResult("unheard-of"), **options)
    assert re.match(r"The operation timed out after 0\.\d+ s\. Task 'unheard-of' has not", text)
    assert "nothing was seen of it" in text
    assert text.endswith(f"{LABEL} is connected.")


def test_timeout_of_a_task_that_is_seen_to_go_on(app: Celery, store: Callable[..., str]) -> None:
    task_id = store({"page": 3}, "PROGRESS")
    text = timeout_of(app.AsyncResult(task_id), timeout=1)
    assert f"Task '{task_id}' has not ended, and the last that was seen of it is 'PROGRESS'" in text
    text = timeout_of(app.AsyncResult(task_id), timeout=0)
    assert f"timeout is not above 0. Task '{task_id}' has not ended, and its state is " in text


def test_timeout_of_several(app: Celery, store: Callable[..., str]) -> None:
    late = uuid()
    members = [app.AsyncResult(task_id) for task_id in (store(1), late, uuid())]
    text = timeout_of(ResultSet(members, app=app))
    assert f"2 tasks have not ended. Task '{late}' has not ended" in text


def test_timeout_without_a_connection(broker: Any) -> None:
    with make_app(
        broker.url(), f"redis://:secret@127.0.0.1:{free_port()}/1", result_drainer="auto"
    ) as app:
        text = timeout_of(app.AsyncResult(uuid()), timeout=1)
        app.backend.result_consumer.stop()
    assert f"{LABEL} is not connected (ConnectionError: " in text
    assert "secret" not in text


def test_a_wait_that_is_stopped_has_the_task(app: Celery) -> None:
    outcome = spawn_get(app.AsyncResult("stopped"))
    wait_until(lambda: app.backend.result_consumer.statistics().pending, "the wait")
    app.backend.result_consumer.stop()
    (error,) = wait_until(lambda: outcome, "the end of the wait")
    assert isinstance(error, DrainerStopped)
    assert error.task_id == "stopped"
    assert "'stopped'" in str(error)


@pytest.mark.parametrize("cls", [DrainerStopped, ResultEvicted, ResultNeverCame])
def test_errors_can_be_pickled(cls: Any) -> None:
    error = pickle.loads(pickle.dumps(cls("It is gone.", "some-id")))
    assert (type(error), str(error), error.task_id) == (cls, "It is gone.", "some-id")
