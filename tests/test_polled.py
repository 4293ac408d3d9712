"""Stores that never call back, each of them real, and all served alike."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, chain, chord, group, uuid
from celery.app.backends import BACKEND_ALIASES, by_name
from celery.exceptions import ImproperlyConfigured, TimeoutError
from celery.result import GroupResult, ResultSet

from celery_green_drain import DrainerStopped, sse, watch
from celery_green_drain.backends.polled import polled as polled_backend
from celery_green_drain.backends.stores import gathers
from celery_green_drain.consumers.polled import consumer as polled
from celery_green_drain.consumers.polled import gathered
from celery_green_drain.consumers.polled.gathered import GatheredReads
from celery_green_drain.consumers.polled.lookups import Rows
from celery_green_drain.consumers.polled.poller import Poller

from .green import (
    DRAINER,
    GREEN,
    MODE,
    TooLong,
    crowd,
    in_native_thread,
    kill,
    limit,
    size,
    spawn,
    spawn_get,
    wait_until,
)
from .program import command, run, run_fine
from .proxy import proxied
from .servers import Process, RedisServer, Worker
from .sse_client import parse
from .stores import IN_MEMORY, MemcachedServer, OwnStore, PgBouncer, PostgresServer, Store
from .tasks import make_app
from .test_redis_reads import store_and_read_along
from .watcher import Watcher

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
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
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
        lambda i: Worker(broker.url(database=i + 1), kinds[i].worker_url, **kinds[i].environment),
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

    @pytest.mark.parametrize("name", ["sqlite", "memcached", "django-db"])
    def test_chord(self, make: Callable[..., Celery], name: str) -> None:
        app = make(name)
        header = [app.tasks["add"].s(i, i) for i in range(5)]
        assert chord(header)(app.tasks["total"].s()).get(timeout=30) == 20

    def test_states_in_between(self, app: Celery) -> None:
        seen: list[Any] = []
        result = app.tasks["progress"].delay(2, pause=0.3)
        assert result.get(timeout=20, on_message=seen.append) == 2
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


def test_watched(app: Celery) -> None:
    """Each state that stays until a look is seen, by all that watch, and for a group too."""
    ids = [uuid(), uuid()]
    watchers = [Watcher(app.AsyncResult(ids[0])) for _ in range(3)]
    both = Watcher(ResultSet([app.AsyncResult(task_id) for task_id in ids]))
    for step in (1, 2):
        store(app, {"step": step}, "PROGRESS", ids[0])
        wait_until(lambda: all(len(w.seen) == step for w in [*watchers, both]), "the step")  # noqa: B023
    store(app, "end", task_id=ids[0])
    for watcher in watchers:
        watcher.wait()
        assert [state.result for state in watcher.seen] == [{"step": 1}, {"step": 2}, "end"]
        assert watcher.seen[-1].last
    store(app, "other end", task_id=ids[1])
    assert [(s.result, s.done) for s in both.wait()[-2:]] == [("end", 1), ("other end", 2)]
    assert list(watch(app.AsyncResult(ids[0])))[-1].result == "end"
    consumer = app.backend.result_consumer
    wait_until(lambda: not consumer.statistics().pending, "the end of all subscriptions")


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
    monkeypatch.setattr(app.backend.traits.lookup, "chunk", 7)
    monkeypatch.setattr(polled, "BATCH", 5)
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


def test_each_who_waits_gets_a_value_of_its_own(app: Celery) -> None:
    task_id = uuid()
    waits = [spawn_get(app.AsyncResult(task_id)) for _ in range(3)]
    table = app.backend.result_consumer.table
    wait_until(lambda: len(table.of(task_id)) == 3, "all waits")
    store(app, [1, 2], task_id=task_id)
    wait_until(lambda: all(waits), "all results")
    assert [got[0] for got in waits] == [[1, 2]] * 3
    assert len({id(got[0]) for got in waits}) == 3


def test_a_database_that_takes_capitals_for_small_letters(
    make: Callable[..., Celery], tmp_path: Path
) -> None:
    app = make("sqlite", result_backend=f"db+sqlite:///{tmp_path}/loose.sqlite3")
    store(app)
    with closing(sqlite3.connect(tmp_path / "loose.sqlite3")) as connection, connection:
        (sql,) = connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'celery_taskmeta'"
        ).fetchone()
        connection.execute("DROP TABLE celery_taskmeta")
        connection.execute(sql.replace("task_id VARCHAR(155)", "task_id TEXT COLLATE NOCASE"))
    task_id = uuid()
    got, other = spawn_get(app.AsyncResult(task_id.upper())), spawn_get(app.AsyncResult(uuid()))
    store(app, 1, task_id=task_id)
    wait_until(lambda: got == [1], "the result, as plain Celery finds it")
    assert not other


@pytest.mark.skipif(not GREEN, reason="a thread cannot be killed")
@pytest.mark.parametrize("name", ["sqlite", "postgres"])
def test_a_killed_poller_is_replaced(make: Callable[..., Celery], name: str) -> None:
    app = make(name)
    result = app.AsyncResult(uuid())
    got = spawn_get(result)
    consumer = app.backend.result_consumer
    wait_until(lambda: consumer.connections, "the first look")
    kill(consumer._poller.spawned[0])
    store(app, "after", task_id=result.id)
    wait_until(lambda: got == ["after"], "the result")
    assert consumer.statistics().connects == 2


@pytest.mark.skipif(not GREEN, reason="a thread cannot be killed")
def test_a_poller_that_is_killed_in_a_look_leaves_its_connection_to_it(
    make: Callable[..., Celery], stores: dict[str, Store]
) -> None:
    """To close what another thread is in the middle of ends the process."""
    app = make("sqlite")
    task_id = store(app, "after")
    consumer = app.backend.result_consumer
    for _ in range(5):
        with locked(stores["sqlite"].url.partition(":///")[2], 0.5):
            got = spawn_get(app.AsyncResult(task_id))
            wait_until(lambda: consumer._poller and consumer._poller.busy, "the look")
            time.sleep(0.1)  # it is in SQLite now, which tells nobody
            kill(consumer._poller.spawned[0])
        wait_until(lambda: got, "the result")  # noqa: B023
        assert got == ["after"]


@pytest.mark.skipif(not GREEN, reason="a thread cannot be killed")
@pytest.mark.parametrize("name", ["sqlite", "postgres"])
def test_a_poller_that_is_killed_before_it_runs_is_replaced(
    make: Callable[..., Celery], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make(name)
    look = Poller.look

    def kill_first(poller: Poller, task_ids: list[str]) -> None:
        monkeypatch.setattr(Poller, "look", look)
        kill(poller.spawned[0])
        look(poller, task_ids)

    monkeypatch.setattr(Poller, "look", kill_first)
    assert app.AsyncResult(store(app, "after")).get(timeout=20) == "after"


@pytest.mark.skipif(not GREEN, reason="a thread cannot be killed")
def test_a_lane_that_is_killed_before_it_runs_holds_up_nobody(
    make: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make("file")
    results = [app.AsyncResult(store(app, number)) for number in range(5)]
    lane = Poller._work

    def kill_others(poller: Poller, *args: Any) -> None:
        monkeypatch.setattr(Poller, "_work", lane)
        for other in poller.spawned[1:]:
            kill(other)
        lane(poller, *args)

    monkeypatch.setattr(Poller, "_work", kill_others)
    assert ResultSet(results, app=app).get(timeout=20) == list(range(5))


# -- what it costs


def test_a_thousand_waiters_are_two_queries_a_look_over_one_connection(
    make: Callable[..., Celery], postgres: PostgresServer
) -> None:
    count, pause = size(1000, 300), 0.5
    app = make("postgres", result_drainer_poll_min=pause, result_drainer_poll_max=pause)
    ids, first = [uuid() for _ in range(count)], store(app, "all the same")
    earlier = len(looks(postgres))
    waits = [spawn_get(app.AsyncResult(task_id)) for task_id in ids]
    statistics = app.backend.result_consumer.statistics
    wait_until(lambda: statistics().pending == count, "all waits", timeout=60)

    wait_until(lambda: len(looks(postgres)) >= earlier + 4, "the first looks")
    before, all_before = len(looks(postgres)), len(postgres.statements("web"))
    begun = time.monotonic()
    wait_until(lambda: len(looks(postgres)) >= before + 6, "some looks")
    intervals = (time.monotonic() - begun) / pause + 1
    assert len(postgres.statements("web")) - all_before <= 2 * intervals
    assert postgres.connections("web") == 1
    postgres.copy_result(first, ids)
    wait_until(lambda: all(waits), "all results", timeout=60)
    assert {got[0] for got in waits} == {"all the same"}
    assert postgres.connections("web") == 1
    assert statistics().connects == 1


def test_a_lost_connection_is_replaced_by_one_like_it(
    make: Callable[..., Celery], postgres: PostgresServer
) -> None:
    """A look is one query afterwards as well, without a transaction."""
    app = make("postgres", result_drainer_poll_min=0.1, result_drainer_poll_max=0.1)
    statistics = app.backend.result_consumer.statistics
    got = spawn_get(app.AsyncResult(task_id := uuid()))
    wait_until(lambda: statistics().connections, "the first look")
    serving = "FROM pg_stat_activity WHERE query LIKE 'SELECT celery_taskmeta%'"
    looked = len(looks(postgres))
    postgres.ask(f"SELECT pg_terminate_backend(pid) {serving}")
    wait_until(lambda: len(looks(postgres)) >= looked + 3, "a look over another connection")
    before = len(postgres.statements("web"))
    wait_until(lambda: len(postgres.statements("web")) >= before + 6, "some looks")
    after = postgres.statements("web")[before:]
    assert [line for line in after if "SELECT celery_taskmeta.id" not in line] == []
    store(app, "here", task_id=task_id)
    wait_until(lambda: got == ["here"], "the result")


def test_a_connection_that_breaks_each_time_is_not_the_fault_of_an_id(
    make: Callable[..., Celery], postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make("postgres")
    find, task_id, cuts = Rows._find, uuid(), [1, 2, 3]

    def cut(self: Rows, task_ids: list[str]) -> Any:
        if task_ids == [task_id] and cuts:
            cuts.pop()
            others = "FROM pg_stat_activity WHERE application_name = 'web'"
            postgres.ask(f"SELECT count(pg_terminate_backend(pid)) {others}")
        return find(self, task_ids)

    store(app, 1, task_id=task_id)
    monkeypatch.setattr(Rows, "_find", cut)
    assert app.AsyncResult(task_id).get(timeout=20) == 1
    assert not cuts


@pytest.mark.skipif(DRAINER != "gevent", reason="gevent alone has a pool of native threads")
def test_pollers_share_their_native_threads(
    make: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gevent.threadpool import ThreadPool

    def pools() -> int:
        gc.collect()
        return sum(isinstance(thing, ThreadPool) for thing in gc.get_objects())

    monkeypatch.setattr(polled, "LINGER", 0.0)
    app, counts = make("sqlite"), []
    for i in range(8):
        assert app.AsyncResult(store(app, i)).get(timeout=20) == i
        wait_until(lambda: not app.backend.result_consumer.connections, "the end of the poller")
        counts.append(pools())
    assert max(counts) - min(counts) <= 1


@pytest.fixture
def bounced(
    request: pytest.FixtureRequest, broker: RedisServer, postgres: PostgresServer
) -> Iterator[Celery]:
    """An app whose database is behind a PgBouncer: in which mode, with how many connections."""
    bouncer = PgBouncer(postgres, *request.param)
    settings = {"result_drainer_poll_min": 0.05, "result_drainer_poll_max": 0.05}
    app = make_app(broker.url(), bouncer.url(), result_drainer=DRAINER, **settings)
    yield app
    app.backend.result_consumer.stop()
    app.close()
    bouncer.end()


def test_an_error_that_comes_and_goes_is_not_the_fault_of_an_id(
    make: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a statement is refused now and then, and the connection holds."""
    app = make("sqlite")
    find, task_id, errors = Rows._find, uuid(), [ValueError("chance")] * 3

    def fail(self: Rows, task_ids: list[str]) -> Any:
        if task_ids == [task_id] and errors:
            raise errors.pop()
        return find(self, task_ids)

    store(app, 1, task_id=task_id)
    monkeypatch.setattr(Rows, "_find", fail)
    assert app.AsyncResult(task_id).get(timeout=20) == 1
    assert not errors


def test_no_connection_is_kept_for_a_look_that_is_far_off(
    make: Callable[..., Celery], postgres: PostgresServer
) -> None:
    """Others may be waiting for it, behind a pooler."""
    app = make("postgres", result_drainer_poll_min=60, result_drainer_poll_max=60)
    consumer = app.backend.result_consumer
    got = spawn_get(app.AsyncResult(uuid()), timeout=3)
    wait_until(lambda: consumer.connected, "the first look")
    wait_until(lambda: not postgres.connections("web"), "the end of the idle connection")
    assert (consumer.connections, consumer.connected) == (0, True)
    assert app.AsyncResult(store(app)).get(timeout=20) == 42
    assert consumer.statistics().connects == 1
    wait_until(lambda: got, "the end of the wait")


@pytest.mark.parametrize("bounced", [("transaction", 2)], indirect=True)
def test_each_look_may_be_served_by_another_server(bounced: Celery) -> None:
    """Nothing is prepared for the next one."""
    address = bounced.conf.result_backend.partition("+psycopg://")[2]
    load = Process(sys.executable, "-c", TRANSACTIONS, f"postgresql://{address}")
    statistics = bounced.backend.result_consumer.statistics
    got = spawn_get(bounced.AsyncResult(task_id := uuid()))
    wait_until(lambda: statistics().lookups >= 60, "many looks", timeout=60)
    assert (statistics().outages, statistics().last_error) == (0, None)
    store(bounced, 1, task_id=task_id)
    wait_until(lambda: got == [1], "the result")
    load.end()


#: Short transactions of others, two at a time.
TRANSACTIONS = """
import sys, threading, time
import psycopg

def work():
    with psycopg.connect(sys.argv[1], prepare_threshold=None) as connection:
        while True:
            with connection.transaction():
                connection.execute("SELECT pg_sleep(0.01)")
            time.sleep(0.01)

for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(120)
"""


@pytest.mark.parametrize("bounced", [("session", 1)], indirect=True)
def test_who_stores_gets_a_connection_too(bounced: Celery) -> None:
    """Though the loop looks all the time, and there is one for all."""
    got = spawn_get(bounced.AsyncResult(task_id := uuid()))
    statistics = bounced.backend.result_consumer.statistics
    wait_until(lambda: statistics().lookups >= 3, "some looks")
    spawn(bounced.backend.store_result, task_id, 1, "SUCCESS")
    wait_until(lambda: got == [1], "the result", timeout=60)


def looks(postgres: PostgresServer) -> list[str]:
    return [line for line in postgres.statements("web") if "SELECT celery_taskmeta.id" in line]


def test_nobody_waits_and_nothing_is_asked(
    make: Callable[..., Celery], postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polled, "LINGER", 1.5)
    app = make("postgres")
    assert app.AsyncResult(store(app)).get(timeout=20) == 42
    consumer = app.backend.result_consumer
    wait_until(lambda: not consumer.statistics().pending, "the end of the wait")
    assert postgres.connections("web") == 1
    before = len(postgres.statements("web"))
    wait_until(lambda: not postgres.connections("web"), "the end of the idle connection")
    assert not consumer.connections
    assert len(postgres.statements("web")) == before
    assert app.AsyncResult(store(app)).get(timeout=20) == 42


def test_memcached_reads_many_keys_at_once(
    make: Callable[..., Celery], memcached: MemcachedServer
) -> None:
    app = make("memcached")
    ids = [store(app, i) for i in range(950)]
    connections = int(memcached.statistics()["total_connections"])
    looks = int(memcached.statistics()["cmd_get"])
    results = [app.AsyncResult(task_id) for task_id in ids]
    called: list[Any] = []
    for result in results:
        result.then(called.append)
    wait_until(lambda: len(called) == 950, "all callbacks")
    # Each key counts, and none was asked for twice but those of a first look that came too soon.
    assert int(memcached.statistics()["cmd_get"]) - looks <= 2 * 950
    # One for the poller, one for each look at the statistics.
    assert int(memcached.statistics()["total_connections"]) - connections <= 4


@pytest.mark.skipif(not GREEN, reason="there are greenlets beside native threads only then")
def test_memcached_for_greenlets_and_native_threads(make: Callable[..., Celery]) -> None:
    """No connection goes from one to the other: its socket belongs to where it was made."""
    app = make("memcached")
    ids = [store(app, i) for i in range(100)]

    def read() -> list[Any]:
        return [app.AsyncResult(task_id).result for task_id in ids]

    native = [in_native_thread(read) for _ in range(4)]
    green = crowd(20, lambda _: read())
    assert [*green, *(wait() for wait in native)] == [list(range(100))] * 24


def test_looks_are_rarer_while_nothing_moves(make: Callable[..., Celery]) -> None:
    app = make("own", result_drainer_poll_max=0.2)
    lookups = noted(app)
    app.AsyncResult(uuid()).then(print)
    wait_until(lambda: len(lookups) >= 9, "some looks")
    pauses = [after - before for (before, _), (after, _) in zip(lookups, lookups[1:])]
    assert min(pauses[-3:]) >= 0.19
    assert min(pauses[:2]) < 0.19
    before = len(lookups)
    assert app.AsyncResult(store(app)).get(timeout=20) == 42
    wait_until(lambda: len(lookups) >= before + 4, "some more")
    times = [at for at, _ in lookups[before + 1 :]]  # the first was for the new one alone
    assert min(after - before for before, after in zip(times, times[1:])) < 0.19


def test_what_is_there_takes_no_pause(make: Callable[..., Celery]) -> None:
    """Results that are read one after the other: each is looked for at once, and it alone."""
    app = make("own", result_drainer_poll_min=60, result_drainer_poll_max=60)
    waiting, lookups = uuid(), noted(app)
    wait = spawn_get(app.AsyncResult(waiting))
    wait_until(lambda: lookups, "the first look")
    for i in range(5):
        assert app.AsyncResult(store(app, i)).get(timeout=20) == i
    assert [len(ids) for _, ids in lookups] == [1] * 6
    assert wait == []
    app.backend.result_consumer.drainer.stop()


def noted(app: Celery) -> list[tuple[float, list[str]]]:
    """When each look begins, and for which ids."""
    lookups: list[tuple[float, list[str]]] = []
    make_lookup = app.backend.lookup

    def lookup(one_by_one: bool = False) -> Any:
        lookup = make_lookup(one_by_one)
        find = lookup.find
        lookup.find = lambda ids: lookups.append((time.monotonic(), ids)) or find(ids)
        return lookup

    app.backend.lookup = lookup
    return lookups


# -- drivers that block


class Ticker:
    """A greenlet that ticks, and knows the longest time it could not."""

    def __init__(self) -> None:
        self.longest, self._last = 0.0, time.monotonic()
        self._over = False
        spawn(self._tick)

    def _tick(self) -> None:
        while not self._over:
            time.sleep(0.01)
            self._look()

    def _look(self) -> None:
        now = time.monotonic()
        self.longest, self._last = max(self.longest, now - self._last), now

    def stop(self) -> float:
        self._look()
        self._over = True
        return self.longest


@contextmanager
def locked(file: str | Path, seconds: float) -> Iterator[None]:
    """Another process has the SQLite *file* to itself, for so long."""
    with subprocess.Popen(
        command("lock", str(file), str(seconds)), stdout=subprocess.PIPE, text=True
    ) as locker:
        assert locker.stdout is not None
        assert locker.stdout.readline() == "locked\n"
        yield


#: Whether nothing is left to do under a lock at the first query, which is in some native thread.
CONFIGURED = """
from celery import Celery
from celery.backends.database.models import Task
from sqlalchemy import inspect
assert not inspect(Task).configured
Celery(backend="db+sqlite://", config_source={"result_drainer": "thread"}).backend
assert inspect(Task).configured
"""


@pytest.mark.skipif(GREEN, reason="it is a process of its own")
def test_models_are_configured_before_native_threads_use_them() -> None:
    """A lock that eventlet has patched wakes nobody in another native thread."""
    subprocess.run([sys.executable, "-c", CONFIGURED], check=True)


@pytest.mark.skipif(MODE == "eventlet", reason="a prefork worker is not patched by eventlet")
def test_who_stores_gets_the_only_connection_of_a_pool(make: Callable[..., Celery]) -> None:
    """As in a process of a prefork worker, where Celery has such a pool."""
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 10}
    app = make("postgres", database_engine_options=options, result_drainer_poll_max=0.05)
    if not hasattr(app.backend, "session_manager"):
        pytest.skip("this Celery has a pool for each query")
    app.backend.session_manager.forked = True
    task_id = uuid()
    outcome = spawn_get(app.AsyncResult(task_id))
    wait_until(lambda: app.backend.result_consumer.connections, "the first look")
    first = app.backend.result_consumer.statistics().lookups
    while app.backend.result_consumer.statistics().lookups < first + 30:
        store(app)
        time.sleep(0.02)  # as who stores does other things, too
    store(app, 1, task_id=task_id)
    wait_until(lambda: outcome == [1], "the result")


@pytest.mark.parametrize("name", ["sqlite", "django-db"])
def test_a_locked_database_stalls_nobody_else(
    make: Callable[..., Celery], stores: dict[str, Store], django: Path, name: str
) -> None:
    app = make(name)
    result = app.AsyncResult(uuid())
    got = spawn_get(result)
    wait_until(lambda: app.backend.result_consumer.connections, "the first look")
    file = django / "db.sqlite3" if name == "django-db" else stores[name].url.partition(":///")[2]
    with locked(file, 2):
        ticker, stored = Ticker(), []
        begun = time.monotonic()
        spawn(lambda: stored.append(store(app, "after the lock", task_id=result.id)))
        states = [spawn_call(lambda: app.AsyncResult(uuid()).state) for _ in range(3)]
        with pytest.raises(TimeoutError):
            app.AsyncResult(uuid()).get(timeout=0.5)
        assert not stored, "the lock is none"
        wait_until(lambda: got, "the result")
        assert time.monotonic() - begun > 1
        wait_until(lambda: all(states), "all states")
    assert got == ["after the lock"]
    assert states == [["PENDING"]] * 3
    assert ticker.stop() < 0.7


def spawn_call(function: Callable[[], Any]) -> list[Any]:
    got: list[Any] = []
    spawn(lambda: got.append(function()))
    return got


@pytest.mark.parametrize("name", ["sqlite", "postgres", "file", "own"])
def test_who_polls_keeps_no_app_alive(
    broker: RedisServer, stores: dict[str, Store], name: str
) -> None:
    app: Celery | None = make_app(broker.url(), stores[name].url, result_drainer=DRAINER)
    assert app is not None
    assert app.AsyncResult(store(app, 1)).get(timeout=20) == 1
    consumer = weakref.ref(app.backend.result_consumer)
    app.close()
    app = None

    def gone() -> bool:
        gc.collect()
        return consumer() is None

    wait_until(gone, "the end of the poller", timeout=5)


def test_threads_by_setting(make: Callable[..., Celery]) -> None:
    for threads in (True, False):
        for name in ("sqlite", "memcached", "postgres", "own"):
            app = make(name, result_drainer_threads=threads)
            assert app.backend.traits.blocks is threads
            ids = [store(app, i) for i in range(5)]
            assert crowd(5, lambda i: app.AsyncResult(ids[i]).get(timeout=20)) == [0, 1, 2, 3, 4]  # noqa: B023
            assert crowd(5, lambda i: app.AsyncResult(ids[i]).state) == ["SUCCESS"] * 5  # noqa: B023


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("sqlite", True),
        ("postgres", MODE == "eventlet"),  # which psycopg's part in C knows nothing of
        ("memcached", False),
        ("own", True),
    ],
)
def test_threads_by_default(make: Callable[..., Celery], name: str, blocks: bool) -> None:
    assert make(name).backend.traits.blocks is blocks


@pytest.mark.skipif(GREEN, reason="it patches a process of its own")
@pytest.mark.parametrize("early", ["", "import psycopg"])
def test_psycopg_blocks_where_it_was_imported_before_gevent_patched(early: str) -> None:
    """As in a gunicorn with ``--preload``."""
    program = f"""{early}
from gevent import monkey; monkey.patch_all()
from celery import Celery
app = Celery(backend="db+postgresql+psycopg://nowhere/none", set_as_current=False)
app.conf.update(result_drainer="gevent", database_create_tables_at_setup=False)
print(app.backend.traits.blocks)
"""
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout
    assert told.decode().strip() == str(bool(early))


@pytest.mark.parametrize("threads", [True, False])
def test_a_store_that_can_do_one_thing_at_a_time(
    make: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch, threads: bool
) -> None:
    """It asserts that by itself. One of its calls makes another."""
    monkeypatch.setattr(OwnStore, "pause", 0.002)
    app = make("own", result_drainer_threads=threads)
    ids = [uuid() for _ in range(30)]
    waits = [spawn_get(app.AsyncResult(task_id)) for task_id in ids]
    crowd(30, lambda i: store(app, i, task_id=ids[i]))
    assert crowd(30, lambda i: app.AsyncResult(ids[i]).state) == ["SUCCESS"] * 30
    wait_until(lambda: all(waits), "all results")
    assert [got[0] for got in waits] == list(range(30))


def test_single_calls_share_a_few_clients(
    make: Callable[..., Celery], memcached: MemcachedServer
) -> None:
    """Celery's backend has one client, which two calls at once would confuse."""
    app = make("memcached")
    ids = [store(app, i) for i in range(200)]
    before = int(memcached.statistics()["total_connections"])
    assert crowd(200, lambda i: app.AsyncResult(ids[i]).result) == list(range(200))
    assert int(memcached.statistics()["total_connections"]) - before <= 12


@pytest.mark.skipif(
    MODE != "eventlet", reason="native threads end after each call in eventlet alone"
)
@pytest.mark.parametrize("name", ["sqlite", "postgres", "django-db"])
def test_a_native_thread_leaves_no_file_open(
    make: Callable[..., Celery], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make(name)
    from django.db import connections

    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 600)

    def files() -> int:
        return len(os.listdir("/proc/self/fd"))

    assert app.AsyncResult(uuid()).state == "PENDING"
    gc.collect()
    gc.disable()
    try:
        before = files()
        for _ in range(20):
            assert app.AsyncResult(uuid()).state == "PENDING"
        wait_until(lambda: files() <= before + 2, "the ends of the threads")
    finally:
        gc.enable()


@pytest.mark.skipif(not GREEN, reason="a thread cannot be killed")
def test_a_call_that_is_broken_off_leaves_nothing_for_the_next(
    make: Callable[..., Celery], memcached: MemcachedServer
) -> None:
    app = make("memcached")
    ids = [store(app, i) for i in range(2)]
    assert app.AsyncResult(ids[0]).result == 0
    memcached.process.send(signal.SIGSTOP)
    asking = spawn(lambda: app.AsyncResult(ids[0]).state)
    time.sleep(0.1)
    kill(asking)
    memcached.process.send(signal.SIGCONT)
    assert app.AsyncResult(ids[1]).result == 1


# -- what fails


@pytest.mark.parametrize("name", ["postgres", "memcached"])
def test_a_store_that_goes_and_comes_back(
    make: Callable[..., Celery],
    postgres: PostgresServer,
    memcached: MemcachedServer,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server: Any = {"postgres": postgres, "memcached": memcached}[name]
    app = make(name, result_drainer_retry_max=0.3)
    result, calls = app.AsyncResult(uuid()), []
    result.then(lambda result: calls.append(result.get()))
    got = spawn_get(result)
    consumer = app.backend.result_consumer
    wait_until(lambda: consumer.connections, "the first look")
    server.stop()
    try:
        wait_until(lambda: not consumer.connections, "the loss of the connection")
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            app.AsyncResult(uuid()).get(timeout=1)
        assert time.monotonic() - begun < 1.5
    finally:
        server.start()
    store(app, "after the outage", task_id=result.id)
    wait_until(lambda: got and calls, "the result")
    assert got == calls == ["after the outage"]
    app.AsyncResult(uuid()).then(print)
    wait_until(lambda: "back after" in caplog.text, "the line that says so")
    ours = [record for record in caplog.records if record.name.startswith("celery_green_drain")]
    assert ["Lost" in ours[0].getMessage(), "back after" in ours[1].getMessage()] == [True, True]
    assert len(ours) == 2
    assert "\n" not in ours[0].getMessage()


@pytest.mark.parametrize(
    ("name", "task_id"), [("postgres", "a\0b\nCRITICAL"), ("memcached", "a b\nCRITICAL" * 100)]
)
def test_an_id_that_the_store_refuses_fails_its_waiter_alone(
    make: Callable[..., Celery], name: str, task_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make(name)
    good = [app.AsyncResult(uuid()) for _ in range(20)]
    waits = [spawn_get(result) for result in good[:10]]
    bad = spawn_get(app.AsyncResult(task_id))
    waits += [spawn_get(result) for result in good[10:]]
    wait_until(lambda: bad, "the refusal")
    assert isinstance(bad[0], Exception)
    assert not isinstance(bad[0], TimeoutError)
    for i, result in enumerate(good):
        store(app, i, task_id=result.id)
    wait_until(lambda: all(waits), "all results")
    assert [got[0] for got in waits] == list(range(20))
    assert app.backend.result_consumer.statistics().unreadable == 1
    messages = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert ["\n" in message for message in messages] == [False]
    (event,) = parse(*sse.stream(app.AsyncResult(task_id), timeout=20))
    expected = {"type": type(bad[0]).__name__, "message": sse.UNREADABLE}
    assert (event.json["status"], event.json["result"]) == ("FAILURE", expected)


@pytest.mark.parametrize("name", ["sqlite", "file", "django-db", "own"])
def test_what_cannot_be_read_fails_its_waiter_alone(
    make: Callable[..., Celery], stores: dict[str, Store], django: Path, name: str
) -> None:
    app = make(name)
    good, bad = app.AsyncResult(uuid()), app.AsyncResult(uuid())
    waits = spawn_get(good), spawn_get(bad)
    store(app, task_id=bad.id, state="STARTED")
    spoil(stores, django, name, bad.id)
    wait_until(lambda: waits[1], "the refusal")
    assert isinstance(waits[1][0], Exception)
    assert not isinstance(waits[1][0], TimeoutError)
    store(app, 1, task_id=good.id)
    wait_until(lambda: waits[0] == [1], "the other result")


def spoil(stores: dict[str, Store], django: Path, name: str, task_id: str) -> None:
    folder = Path(stores["file"].url.partition("://")[2]).parent
    if name == "file":
        (folder / "file" / f"celery-task-meta-{task_id}").write_bytes(b"{garbage")
    elif name == "own":
        (folder / "own" / task_id).write_bytes(b"{garbage")
    else:
        file, table = {
            "sqlite": (folder / "results.sqlite3", "celery_taskmeta"),
            "django-db": (django / "db.sqlite3", "django_celery_results_taskresult"),
        }[name]
        with closing(sqlite3.connect(file, timeout=20)) as connection, connection:
            connection.execute(
                f"UPDATE {table} SET result = ?, status = 'SUCCESS' WHERE task_id = ?",
                (b"{garbage" if name == "sqlite" else "{garbage", task_id),
            )


def test_single_look_ups_serve_where_those_for_many_fail(
    make: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = make("sqlite")

    def refuse(self: Any, task_ids: list[str]) -> Any:
        raise ValueError("no such column")

    monkeypatch.setattr(app.backend.traits.lookup, "find", refuse)
    ids = [store(app, i) for i in range(30)]
    assert crowd(30, lambda i: app.AsyncResult(ids[i]).get(timeout=20)) == list(range(30))
    ours = [record for record in caplog.records if record.name.startswith("celery_green_drain")]
    assert ["one by one" in record.getMessage() for record in ours] == [True]


# -- single reads


green_only = pytest.mark.skipif(not GREEN, reason="where threads are native each reads alone")

#: Stores whose single reads go together.
GATHER = ("sqlite", "postgres")


def gathering(app: Celery) -> list[bool]:
    """Have all reads go together; return which were answered so, once they are.

    As if one were under way where it was asked for.
    """
    reads: GatheredReads = app.backend.result_consumer.reads
    wait, answered = reads._wait, list[bool]()
    reads._wait = lambda reading: answered.append(wait(reading)) or answered[-1]  # type: ignore
    reads._first = True
    return answered


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine as well a query is not taken for one that hangs."""
    monkeypatch.setattr(gathered, "PATIENCE", 60)


def held_up(
    stores: dict[str, Store], postgres: PostgresServer, name: str
) -> AbstractContextManager[None]:
    """Nobody is answered meanwhile."""
    if name == "sqlite":
        return locked(stores[name].url.partition(":///")[2], 2)
    return postgres.locked("celery_taskmeta")


@green_only
def test_reads_at_once_are_few_queries(
    make: Callable[..., Celery], postgres: PostgresServer
) -> None:
    app = make("postgres")
    ids = [store(app, {"done": 1}, "PROGRESS"), *(uuid() for _ in range(199))]
    before = len(looks(postgres))
    seen = crowd(200, lambda i: app.AsyncResult(ids[i]).state)
    assert seen == ["PROGRESS", *["PENDING"] * 199]
    # The first alone, the others a hundred at a time.
    assert len(looks(postgres)) - before == 3
    wait_until(lambda: not postgres.connections("web"), "the end of the connection")
    assert app.AsyncResult(ids[0]).state == "PROGRESS"
    assert len(looks(postgres)) - before == 4


def test_one_read_is_made_where_it_is_asked_for(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [store(app, i) for i in range(5)]
    monkeypatch.setattr(GatheredReads, "_wait", None)
    assert [app.AsyncResult(task_id).result for task_id in ids] == list(range(5))


def test_what_is_read_with_others_is_what_is_read_alone(app: Celery) -> None:
    read_alone_and_together(app)


def read_alone_and_together(app: Celery) -> None:
    ids = [
        store(app, {"text": "é", "list": [1, None]}),
        store(app, {"done": 1}, "PROGRESS"),
        store(app, ValueError("no"), "FAILURE"),
        uuid(),
    ] * 5
    alone = [repr(app.backend.get_task_meta(task_id)) for task_id in ids]
    answered = gathering(app)
    metas = crowd(len(ids), lambda i: app.backend.get_task_meta(ids[i]))
    assert [repr(meta) for meta in metas] == alone
    lists = [meta["result"]["list"] for meta in metas[::4]]
    assert len({id(each) for each in lists}) == len(lists)
    assert answered == [True] * (len(ids) if GREEN and app.backend.gathers else 0)


@pytest.mark.parametrize("name", NAMES)
def test_which_stores_gather(make: Callable[..., Celery], name: str) -> None:
    assert make(name).backend.gathers is (name in GATHER)


def test_a_subclass_gathers_not(make: Callable[..., Celery]) -> None:
    """It may go by who asks."""
    backend = make("sqlite").backend
    assert gathers(backend, backend.stock)
    assert not gathers(backend, type("Own", (backend.stock,), {}))


@pytest.mark.parametrize("name", ["sqlite", "django-db"])
def test_a_subclass_is_asked_in_its_own_way(make: Callable[..., Celery], name: str) -> None:
    """Such as one that looks in a second place."""
    app = make(name)
    stock = app.backend.stock

    class Archive(stock):  # type: ignore[misc, valid-type]
        def _get_task_meta_for(self, task_id: str) -> Any:
            meta = super()._get_task_meta_for(task_id)
            if meta["status"] == "PENDING":
                return {"status": "SUCCESS", "result": "archived", "task_id": task_id}
            return meta

    backend = polled_backend(Archive)(app, url=app.backend.url)
    ids = [store(app, 1), uuid()]
    try:
        got = [app.AsyncResult(each, backend=backend).get(timeout=20) for each in ids]
        assert got == [1, "archived"]
    finally:
        backend.result_consumer.stop()


def test_a_store_may_read_while_it_reads(make: Callable[..., Celery]) -> None:
    """Such as one that follows from a result to another one, with one lane for all."""
    app = make("own")
    stock = app.backend.stock

    class Following(stock):  # type: ignore[misc, valid-type]
        def _get_task_meta_for(self, task_id: str) -> Any:
            meta = super()._get_task_meta_for(task_id)
            if meta["status"] == "SUCCESS" and meta["result"] in ids:
                return app.AsyncResult(meta["result"], backend=backend)._get_task_meta()
            return meta

    ids: list[str] = []
    backend = polled_backend(Following)(app, url=app.backend.url)
    ids.append(store(app, 42))
    ids.append(store(app, ids[0]))
    try:
        assert app.AsyncResult(ids[1], backend=backend).get(timeout=20) == 42
        assert app.AsyncResult(ids[1], backend=backend).result == 42
    finally:
        backend.result_consumer.stop()


def test_where_celery_keeps_what_it_has_read_it_reads_itself(make: Callable[..., Celery]) -> None:
    app = make("sqlite", result_cache_max=100)
    assert not app.backend.gathers
    ids = [store(app, i) for i in range(10)]
    gathering(app)
    assert crowd(10, lambda i: app.AsyncResult(ids[i]).result) == list(range(10))
    assert all(map(app.backend.is_cached, ids))


@green_only
def test_who_listens_to_all_queries_is_told_of_each_where_it_is_made(
    make: Callable[..., Celery],
) -> None:
    """As who chooses a tenant by the context."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    tenant: ContextVar[int] = ContextVar("tenant", default=-1)
    told: list[int] = []

    def listen(*_: object) -> None:
        told.append(tenant.get())

    app, task_id = make("sqlite"), uuid()
    app.backend.get_task_meta(task_id)
    gathering(app)

    def read(i: int) -> object:
        tenant.set(i)
        return app.AsyncResult(task_id).state

    event.listen(Engine, "before_cursor_execute", listen)
    try:
        assert crowd(10, read) == ["PENDING"] * 10
    finally:
        event.remove(Engine, "before_cursor_execute", listen)
    assert set(told) == set(range(10))


@pytest.mark.parametrize(
    "settings",
    [
        {"database_engine_callback": print},
        {"database_engine_callback": "builtins.print"},
        {"database_engine_options": {"creator": print}},
    ],
)
def test_who_sees_to_the_connections_does_so_for_each_read(
    make: Callable[..., Celery], settings: dict[str, Any]
) -> None:
    settings["database_create_tables_at_setup"] = False
    assert not make("sqlite", **settings).backend.gathers


def test_one_warning_of_an_eager_app_for_a_read(make: Callable[..., Celery]) -> None:
    app = make("sqlite", task_always_eager=True)
    with pytest.warns(RuntimeWarning, match="eager") as warnings:
        assert app.AsyncResult(uuid()).state == "PENDING"
    # Not what the garbage of another test has to say just now.
    assert len([each for each in warnings if each.category is RuntimeWarning]) == 1


@green_only
def test_a_read_sees_what_was_stored_before_it(make: Callable[..., Celery]) -> None:
    app = make("sqlite")
    answered = gathering(app)
    store_and_read_along(app, partial(store, app), 20)
    assert answered == [True] * 100


@green_only
def test_a_read_in_a_native_thread_is_made_there(make: Callable[..., Celery]) -> None:
    app = make("sqlite")
    task_id = store(app, 1)
    answered = gathering(app)
    assert in_native_thread(lambda: app.AsyncResult(task_id).state)() == "SUCCESS"
    assert not answered


@green_only
def test_one_that_cannot_be_read_is_told_to_who_asks_for_it(
    make: Callable[..., Celery], stores: dict[str, Store], django: Path
) -> None:
    app = make("sqlite")
    ids = [store(app, i) for i in range(10)]
    spoil(stores, django, "sqlite", ids[5])
    answered = gathering(app)
    metas = crowd(10, lambda i: app.backend.get_task_meta(ids[i]))
    assert isinstance(metas.pop(5), Exception)
    assert [meta["result"] for meta in metas] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert answered == [True] * 10


@green_only
def test_an_id_that_the_store_refuses_is_told_to_who_asks_for_it(
    make: Callable[..., Celery],
) -> None:
    app = make("postgres", result_backend_always_retry=False)
    ids = [*(store(app, i) for i in range(10)), "a\0b"]
    answered = gathering(app)
    metas = crowd(11, lambda i: app.backend.get_task_meta(ids[i]))
    assert isinstance(metas.pop(), Exception)
    assert [meta["result"] for meta in metas] == list(range(10))
    del answered[:]
    assert app.backend.get_task_meta(ids[0])["result"] == 0
    assert answered == [True], "it is held against the others"


@green_only
def test_ids_that_are_no_text_are_left_to_celery(make: Callable[..., Celery]) -> None:
    app = make("sqlite")
    answered = gathering(app)
    task_id = store(app, 1)
    alone = [
        app.backend.get_task_meta(each)["status"] for each in (task_id.encode(), UUID(task_id))
    ]
    assert alone == ["PENDING", "PENDING"]
    assert not answered


@green_only
def test_reads_in_an_outage(make: Callable[..., Celery], postgres: PostgresServer) -> None:
    """They end as Celery's end, with its error, and work again afterwards."""
    app = make("postgres", result_backend_always_retry=False)
    task_id = store(app, 1)
    answered = gathering(app)
    postgres.stop()
    try:
        errors = crowd(5, lambda _: app.AsyncResult(task_id).state)
    finally:
        postgres.start()
    assert {type(error).__name__ for error in errors} == {"OperationalError"}
    assert answered == [False] * 5
    assert crowd(5, lambda _: app.AsyncResult(task_id).state) == ["SUCCESS"] * 5


@green_only
def test_a_query_that_hangs_holds_up_who_comes_first_alone(
    make: Callable[..., Celery], postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathered, "PATIENCE", 1)
    with proxied(postgres.port) as proxy:
        url = postgres.url("web").replace(str(postgres.port), str(proxy.port))
        app = make("postgres", result_backend=url)
        task_id = store(app, 1)
        answered, reads = gathering(app), app.backend.result_consumer.reads
        proxy.swallow()
        first = [spawn_call(lambda: app.AsyncResult(task_id).state) for _ in range(3)]
        wait_until(lambda: reads._asked, "the query")
        time.sleep(gathered.PATIENCE / 2)  # its connection was let in
        proxy.pass_on()  # over new connections
        wait_until(lambda: all(first), "those who were held up")
        assert first == [["SUCCESS"]] * 3
        assert answered == [False] * 3
        assert [app.AsyncResult(task_id).state for _ in range(10)] == ["SUCCESS"] * 10
        assert len(answered) == 3, "others have waited for it, too"
        assert reads._asked, "it hangs no more"


@green_only
def test_a_query_that_takes_long_is_the_last_for_a_while(
    make: Callable[..., Celery], postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathered, "PATIENCE", 0.2)
    app = make("postgres")
    ids = [store(app, i) for i in range(10)]
    answered, reads = gathering(app), app.backend.result_consumer.reads
    outcomes: list[Any] = []
    with postgres.locked("celery_taskmeta"):
        spawn(lambda: outcomes.extend(crowd(10, lambda i: app.AsyncResult(ids[i]).result)))
        wait_until(lambda: answered == [False] * 10, "those who read alone")
    wait_until(lambda: outcomes and reads._greenlet is None, "all reads")
    assert outcomes == list(range(10))
    assert crowd(10, lambda i: app.AsyncResult(ids[i]).result) == list(range(10))
    assert len(answered) == 10


@green_only
@pytest.mark.parametrize("name", GATHER)
def test_who_reads_for_all_is_killed(
    make: Callable[..., Celery], stores: dict[str, Store], postgres: PostgresServer, name: str
) -> None:
    app = make(name)
    ids = [store(app, i) for i in range(10)]
    answered, reads = gathering(app), app.backend.result_consumer.reads
    outcomes: list[Any] = []
    with held_up(stores, postgres, name):
        spawn(lambda: outcomes.extend(crowd(10, lambda i: app.AsyncResult(ids[i]).result)))
        wait_until(lambda: len(reads._asked) == 10, "the query")
        time.sleep(0.1)  # the store has it now
        kill(reads._greenlet)
        wait_until(lambda: len(answered) == 10, "those who were told")
    wait_until(lambda: outcomes, "all reads")
    assert outcomes == list(range(10))
    assert answered == [False] * 10
    assert crowd(10, lambda i: app.AsyncResult(ids[i]).result) == list(range(10))
    assert answered[10:] == [True] * 10


@green_only
def test_who_reads_for_all_is_killed_before_it_runs(
    make: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make("sqlite")
    ids = [store(app, i) for i in range(10)]
    answered, drainer = gathering(app), app.backend.result_consumer.drainer
    spawn_apart = drainer.spawn_apart

    def spawn_killed(function: Callable[..., object]) -> object:
        spawned = spawn_apart(function)
        kill(spawned)
        return spawned

    with monkeypatch.context() as patch:
        patch.setattr(gathered, "PATIENCE", 0.2)
        patch.setattr(drainer, "spawn_apart", spawn_killed)
        assert app.AsyncResult(ids[0]).result == 0
    assert crowd(10, lambda i: app.AsyncResult(ids[i]).result) == list(range(10))
    assert answered == [False, *[True] * 10]


@green_only
def test_a_timeout_is_raised_in_who_has_set_it_alone(
    make: Callable[..., Celery], postgres: PostgresServer
) -> None:
    app = make("postgres")
    ids, given_up = [store(app, i) for i in range(10)], list[int]()
    answered = gathering(app)

    def read(i: int) -> object:
        try:
            with limit(0.2) if i == 3 else nullcontext():
                return app.AsyncResult(ids[i]).result
        except TooLong:
            given_up.append(i)
            return "too long"

    outcomes: list[Any] = []
    with postgres.locked("celery_taskmeta"):
        spawn(lambda: outcomes.extend(crowd(10, read)))
        wait_until(lambda: given_up, "the timeout")
    wait_until(lambda: outcomes, "all reads")
    assert outcomes == [0, 1, 2, "too long", 4, 5, 6, 7, 8, 9]
    assert answered == [True] * 9


@pytest.mark.skipif(MODE != "gevent", reason="a thread that reads has locks that a child misses")
def test_a_fork_in_the_middle_of_reads(
    make: Callable[..., Celery], postgres: PostgresServer
) -> None:
    task_id = store(make("postgres"), 42)
    with postgres.locked("celery_taskmeta"):
        program = subprocess.Popen(
            command("forking_reads", MODE, postgres.url("web"), task_id),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert program.stdout is not None
        assert program.stdout.readline() == "forked\n"
    assert program.communicate(timeout=60) == ("fine\n", None)


# -- other processes


@pytest.mark.parametrize("name", ["sqlite", "memcached"])
def test_fork(stores: dict[str, Store], broker: RedisServer, name: str) -> None:
    run_fine("forking", broker.url(), stores[name].url)


def test_the_end_of_the_interpreter_is_silent(
    stores: dict[str, Store], broker: RedisServer
) -> None:
    script = run("end", broker.url(), stores["sqlite"].url, "0")
    assert (script.returncode, script.stdout) == (0, "")
    assert script.stderr.count("\n") == 1
    assert "10 results that callbacks wait for" in script.stderr


# -- which backend it is


def test_every_polled_name_of_celery_is_ours() -> None:
    others = {"rpc", "redis", "rediss", "sentinel", "riak", "disabled"}
    factories = [by_name(name) for name in set(BACKEND_ALIASES) - others]
    assert {factory.func.__module__ for factory in factories} == {"celery_green_drain.backends"}


@pytest.mark.parametrize("drainer", [None, DRAINER])
@pytest.mark.parametrize("url", ["cassandra://", "couchbase://", "s3://"])
def test_a_missing_library_is_told_by_celery(url: str, drainer: Any) -> None:
    stock = Celery(backend=BACKEND_ALIASES[url.partition(":")[0]].replace(":", "."))
    ours = Celery(backend=url)
    ours.conf.result_drainer = drainer
    errors = []
    for app in (stock, ours):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            app.backend  # noqa: B018
        errors.append((caught.type, str(caught.value)))
    assert errors[0] == errors[1]


def test_without_the_setting_they_are_stock(stores: dict[str, Store]) -> None:
    for store in stores.values():
        app = Celery(backend=store.url)
        assert not hasattr(app.backend, "drainer_settings")
        assert "celery_green_drain" not in type(app.backend).__module__


def test_green_in_front_of_what_is_ours_already(results: RedisServer) -> None:
    for url in (results.url(), "cache+memory://", "db+sqlite://"):
        app, plain = Celery(backend=f"green+{url}"), Celery(backend=url)
        app.conf.result_drainer = plain.conf.result_drainer = DRAINER
        assert type(app.backend) is type(plain.backend)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("green://", "needs the backend after"),
        ("green+://", "needs the backend after"),
        ("green+disabled://", "cannot be polled"),
        ("green+celery.backends.rpc.RPCBackend://", "cannot be polled"),
        ("green+no.such.Store://", "no"),
    ],
)
def test_green_in_front_of_what_cannot_be_polled(url: str, message: str) -> None:
    app = Celery(backend=url)
    app.conf.result_drainer = DRAINER
    with pytest.raises((ImproperlyConfigured, ImportError), match=message):
        app.backend  # noqa: B018


def test_a_third_party_store_that_is_thread_safe(make: Callable[..., Celery]) -> None:
    assert make("own").backend.traits.parallel == 1
    assert make("own", result_backend_thread_safe=True).backend.traits.parallel > 1
