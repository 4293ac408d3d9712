"""Who waits is interrupted: its subscription goes, and everybody else's stays."""

from __future__ import annotations

import gc
import http.client
import time
import weakref
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from celery import Celery, uuid
from celery.result import ResultSet

from .conftest import Gunicorn, in_gunicorn
from .green import GREEN, green_timeout, kill, spawn, wait_until
from .servers import RedisServer, Worker

pytestmark = pytest.mark.kinds("redis", "rpc, rabbitmq")

green = pytest.mark.skipif(not GREEN, reason="a thread cannot be interrupted")


def pending(app: Celery) -> int:
    count: int = app.backend.result_consumer.statistics().pending
    return count


def get(app: Celery, task_id: str, outcome: list[Any]) -> None:
    outcome.append(app.AsyncResult(task_id).get(timeout=60))


@green
def test_killed(app: Celery, store: Callable[..., str]) -> None:
    """Others wait for the same task, in greenlets and with a callback."""
    task_id, alone = uuid(), uuid()
    outcome: list[Any] = []
    victims = [spawn(get, app, task_id, outcome) for _ in range(5)]
    victims.append(spawn(get, app, alone, outcome))
    others = [spawn(get, app, task_id, outcome) for _ in range(2)]
    app.AsyncResult(task_id).then(lambda result: outcome.append(result.get(timeout=0)))
    wait_until(lambda: pending(app) == 2, "the waits")
    for victim in victims:
        kill(victim)
    wait_until(lambda: pending(app) == 1, "the end of the one wait")
    store(1, task_id=task_id)
    wait_until(lambda: outcome == [1, 1, 1], "the others' results")
    assert pending(app) == 0
    del others


@green
def test_killed_before_it_has_begun_to_wait(app: Celery, store: Callable[..., str]) -> None:
    task_id = uuid()
    outcome: list[Any] = []
    for _ in range(20):
        victim = spawn(get, app, task_id, outcome)
        other = spawn(get, app, task_id, outcome)
        time.sleep(0)  # into the middle of something
        kill(victim)
        kill(other)
    wait_until(lambda: pending(app) == 0, "the end of the waits")
    assert app.AsyncResult(store(1, task_id=task_id)).get(timeout=20) == 1
    assert outcome == []


@green
def test_killed_in_a_wait_with_a_timeout(app: Celery) -> None:
    """What it held goes at once, not when the time would have been up."""

    class Request:
        """Something that a greenlet holds."""

    alive: weakref.WeakSet[Request] = weakref.WeakSet()

    def get() -> None:
        request = Request()
        alive.add(request)
        app.AsyncResult(uuid()).get(timeout=600)

    victims = [spawn(get) for _ in range(5)]
    wait_until(lambda: pending(app) == 5, "the waits")
    for victim in victims:
        kill(victim)
    del victim, victims
    wait_until(lambda: gc.collect() >= 0 and not alive, "the end of all that they held")


@green
def test_a_green_timeout(app: Celery, store: Callable[..., str]) -> None:
    """``gevent.Timeout`` or ``eventlet.Timeout`` around ``get()``, and another try."""
    task_id = uuid()
    for _ in range(3):
        with green_timeout(0.05):
            app.AsyncResult(task_id).get(timeout=60)
            raise AssertionError("nothing was stored")
    wait_until(lambda: pending(app) == 0, "the end of the waits")
    store(1, task_id=task_id)
    with green_timeout(20):
        assert app.AsyncResult(task_id).get(timeout=60) == 1
        return
    raise AssertionError("the result did not come")


@green
def test_a_green_timeout_around_a_group(app: Celery, store: Callable[..., str]) -> None:
    members = [app.AsyncResult(uuid()) for _ in range(10)]
    store(0, task_id=members[0].id)
    with green_timeout(0.2):
        ResultSet(members, app=app).get(timeout=60)
    wait_until(lambda: pending(app) == 0, "the end of the waits")
    for i, member in enumerate(members):
        store(i, task_id=member.id)
    assert ResultSet(members, app=app).get(timeout=20) == list(range(10))


def test_an_iteration_that_is_left(app: Celery, store: Callable[..., str]) -> None:
    """As by a response that is streamed to a client who goes."""
    members = [app.AsyncResult(uuid()) for _ in range(10)]
    store(0, task_id=members[0].id)
    with closing(ResultSet(members, app=app).iter_native(timeout=60)) as arrivals:
        assert next(arrivals)[0] == members[0].id
        wait_until(lambda: pending(app) == 9, "the waits")
    wait_until(lambda: pending(app) == 0, "the end of the waits")
    forgotten = ResultSet(members[1:], app=app).iter_native(timeout=60)
    spawn(next, forgotten)
    wait_until(lambda: pending(app) == 9, "the waits")
    store(1, task_id=members[1].id)
    wait_until(lambda: pending(app) == 8, "the result")
    del forgotten
    wait_until(lambda: gc.collect() >= 0 and pending(app) == 0, "the end of the waits")


@in_gunicorn
def test_a_client_that_closes_its_request(
    gunicorn: Callable[..., Gunicorn], broker: RedisServer, results: RedisServer, worker: Worker
) -> None:
    """Nobody tells the web process: it finds out when it answers, and goes on."""
    site = gunicorn([broker.url(), results.url("site")], workers=1)
    for _ in range(10):
        leaver = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
        leaver.request("GET", "/?x=1&nap=1")
        leaver.close()
    assert site.fetch("/?x=1&nap=1")["value"] == 2
    assert site.fetch("/?x=2")["value"] == 3
    wait_until(lambda: site.fetch("/state")["pending"] == 0, "the end of the waits")
    assert site.fetch("/state")["connects"] == 1
