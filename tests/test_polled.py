"""Stores that never call back, each of them real, and all served alike."""

from __future__ import annotations

import logging
import pickle
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group, uuid
from celery.exceptions import ImproperlyConfigured, TimeoutError
from celery.result import GroupResult

from celery_green_drain import DrainerStopped
from celery_green_drain.consumers import polling

from .green import DRAINER, GREEN, MODE, crowd, drain_loops, kill, size, spawn, wait_until
from .servers import RedisServer, Worker
from .stores import MemcachedServer, OwnStore, PostgresServer, Store
from .tasks import make_app

NAMES = ("sqlite", "postgres", "memcached", "file", "django-db", "django-cache", "own")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.end()


@pytest.fixture(scope="session")
def memcached() -> Iterator[MemcachedServer]:
    server = MemcachedServer()
    yield server
    server.end()


@pytest.fixture(scope="session")
def stores(
    postgres: PostgresServer, memcached: MemcachedServer, django: Path
) -> Iterator[dict[str, Store]]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "file").mkdir()
        (Path(folder) / "own").mkdir()
        sqlite = f"db+sqlite:///{folder}/results.sqlite3"
        file = f"file://{folder}/file"
        own = f"tests.stores.OwnStore://{folder}/own"
        site = {"DJANGO_SETTINGS_MODULE": "tests.django_settings", "TESTS_DJANGO": str(django)}
        stores = [
            Store("sqlite", sqlite, sqlite),
            Store("postgres", postgres.url("web"), postgres.url("worker")),
            Store("memcached", memcached.url(), memcached.url()),
            Store("file", file, file),
            Store("django-db", "green+django-db://", "django-db://", site),
            Store("django-cache", "green+django-cache", "django-cache", site),
            Store("own", f"green+{own}", own),
        ]
        yield {store.name: store for store in stores}


@pytest.fixture(scope="session")
def workers(stores: dict[str, Store], broker: RedisServer) -> Iterator[None]:
    """A stock worker for each store, each with queues of its own."""
    kinds = list(stores.values())
    workers = crowd(
        len(kinds),
        lambda i: Worker(
            broker.url(database=i + 1), kinds[i].worker_url, **kinds[i].environment
        ),
    )
    broken = [worker for worker in workers if isinstance(worker, Exception)]
    if broken:
        raise broken[0]
    yield
    for worker in workers:
        worker.process.send(signal.SIGTERM)  # all at once, as each takes its time
    for worker in workers:
        worker.end()


@pytest.fixture
def make(broker: RedisServer, stores: dict[str, Store]) -> Iterator[Callable[..., Celery]]:
    """Make an app on one of the stores, with further settings."""
    made: list[Celery] = []

    def make(name: str, **conf: Any) -> Celery:
        database = list(stores).index(name) + 1
        settings = {"result_drainer": DRAINER, **conf}
        made.append(make_app(broker.url(database=database), stores[name].url, **settings))
        return made[-1]

    yield make
    for app in made:
        app.backend.result_consumer.stop()
        app.close()
    wait_until(lambda: not drain_loops(), "the end of all drain loops")


@pytest.fixture(params=NAMES)
def app(request: pytest.FixtureRequest, make: Callable[..., Celery]) -> Celery:
    return make(request.param)


def store(app: Celery, value: Any = 42, state: str = "SUCCESS", task_id: str = "") -> str:
    """Store a result, as a worker does; return its task id."""
    task_id = task_id or uuid()
    app.backend.store_result(task_id, value, state)
    return task_id


# -- each store, with a real worker


@pytest.mark.usefixtures("workers")
class TestWithAWorker:
    def test_get_and_then(self, app: Celery) -> None:
        calls: list[Any] = []
        results = [app.tasks["add"].delay(i, 1) for i in range(20)]
        for result in results:
            result.then(lambda result: calls.append(result.get()))
        assert [result.get(timeout=20) for result in results] == list(range(1, 21))
        wait_until(lambda: sorted(calls) == list(range(1, 21)), "all callbacks")
        assert results[0].state == "SUCCESS"
        assert app.AsyncResult(results[0].id).get(timeout=0) == 1

    def test_failure(self, app: Celery) -> None:
        errors: list[Any] = []
        result = app.tasks["fail"].delay("bad luck")
        result.then(lambda _: None, on_error=errors.append)
        with pytest.raises(ValueError, match="bad luck"):
            result.get(timeout=20)
        wait_until(lambda: errors, "on_error")
        assert "bad luck" in str(errors[0])

    def test_group_and_chain(self, app: Celery) -> None:
        add, calls = app.tasks["add"], []
        members = group(add.s(i, i) for i in range(10))()
        members.then(lambda result: calls.append(result.get()))
        assert members.get(timeout=20) == [2 * i for i in range(10)]
        wait_until(lambda: calls == [[2 * i for i in range(10)]], "the callback of the group")
        assert chain(add.s(1, 2), add.s(3), add.s(4))().get(timeout=20) == 10
        with pytest.raises(ValueError, match="halfway"):
            chain(app.tasks["fail"].si("halfway"), add.si(1, 2))().get(timeout=20)
        members.save()
        assert GroupResult.restore(members.id, app=app).get(timeout=20) == members.get()
        members.delete()
        assert GroupResult.restore(members.id, app=app) is None

    def test_chord(self, app: Celery) -> None:
        header = [app.tasks["add"].s(i, i) for i in range(5)]
        assert chord(header)(app.tasks["total"].s()).get(timeout=30) == 20

    def test_states_in_between(self, app: Celery) -> None:
        seen: list[Any] = []
        result = app.tasks["progress"].delay(3, pause=0.4)
        assert result.get(timeout=20, on_message=seen.append) == 3
        steps = [meta["result"]["step"] for meta in seen if meta["status"] == "PROGRESS"]
        assert steps
        assert steps == sorted(set(steps))  # each change once
        assert seen[-1]["status"] == "SUCCESS"


# -- each store


def test_what_is_there_already(app: Celery) -> None:
    calls: list[Any] = []
    app.AsyncResult(store(app, "before")).then(lambda result: calls.append(result.get()))
    wait_until(lambda: calls == ["before"], "the callback")
    assert app.backend.result_consumer.statistics().connections == 1
    assert app.backend.result_consumer.statistics().connects == 1


def test_a_timeout_is_exact(app: Celery) -> None:
    result = app.AsyncResult(uuid())
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        result.get(timeout=0.2)
    assert 0.2 <= time.monotonic() - begun < 0.45  # stock: half a second
    with pytest.raises(TimeoutError):
        result.get(timeout=0)
    consumer = app.backend.result_consumer
    wait_until(lambda: not consumer.statistics().pending, "the end of the wait")


def test_more_than_a_look_takes(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    for lookup in (app.backend.traits.lookup,):
        monkeypatch.setattr(lookup, "chunk", 7)
    monkeypatch.setattr(polling, "BATCH", 5)
    ids = [store(app, i) for i in range(20)]
    assert crowd(20, lambda i: app.AsyncResult(ids[i]).get(timeout=20)) == list(range(20))


def test_stopped_and_started(app: Celery) -> None:
    result = app.AsyncResult(uuid())
    errors: list[Any] = []

    def wait() -> None:
        try:
            result.get(timeout=20)
        except DrainerStopped as exc:
            errors.append(exc)

    spawn(wait)
    consumer = app.backend.result_consumer
    wait_until(lambda: consumer.connections, "the first look")
    consumer.stop()
    wait_until(lambda: errors, "the end of the wait")
    assert not consumer.connections
    store(app, "later", task_id=result.id)
    assert app.AsyncResult(result.id).get(timeout=20) == "later"


def test_forgotten(app: Celery) -> None:
    result = app.AsyncResult(store(app))
    assert result.get(timeout=20) == 42
    result.forget()
    assert app.AsyncResult(result.id).state == "PENDING"


def test_pickled(app: Celery) -> None:
    app.set_current()
    again = pickle.loads(pickle.dumps(app.AsyncResult(store(app))))
    assert again.backend is app.backend
    assert again.get(timeout=20) == 42


def test_a_killed_poller_is_replaced(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    if not GREEN:
        pytest.skip("a thread cannot be killed")
    result = app.AsyncResult(uuid())
    got = spawn_get(result)
    consumer = app.backend.result_consumer
    wait_until(lambda: consumer.connections, "the first look")
    kill(consumer._poller.spawned[0])
    store(app, "after", task_id=result.id)
    wait_until(lambda: got == ["after"], "the result")
    assert consumer.statistics().connects == 2


def spawn_get(result: Any) -> list[Any]:
    """Wait for *result* beside the test; return where its value, or error, will be."""
    got: list[Any] = []

    def get() -> None:
        try:
            got.append(result.get(timeout=60))
        except Exception as exc:
            got.append(exc)

    spawn(get)
    return got
