"""Stores that are services: each does what Celery promises, whatever becomes of its server."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from celery import Celery, chord, group, uuid
from celery.exceptions import TimeoutError
from celery.result import GroupResult

from celery_green_drain.consumers.polled import gathered
from celery_green_drain.consumers.polled.poller import Poller

from ..green import GREEN, MODE, crowd, size, spawn_get, wait_until
from ..proxy import proxied
from ..tasks import make_app
from ..test_polled import Ticker, read_alone_and_together
from ..watcher import Watcher
from .conftest import Make
from .servers import (
    AzureServer,
    CouchServer,
    DynamoServer,
    MariaServer,
    MongoServer,
    MotoDynamoServer,
    Server,
    kinds,
    others,
)

#: Those of which single reads go together.
GATHER = (CouchServer, DynamoServer, MariaServer, MongoServer, MotoDynamoServer)


def store(app: Celery, value: Any = 42, state: str = "SUCCESS", task_id: str = "") -> str:
    """Store a result, as a worker does; return its task id."""
    task_id = task_id or uuid()
    app.backend.store_result(task_id, value, state)
    return task_id


@pytest.mark.usefixtures("worker")
def test_all_that_celery_promises(app: Celery, server: Server) -> None:
    add, calls, errors = app.tasks["add"], [], []
    total = chord([add.s(i, i) for i in range(3)])(app.tasks["total"].s())
    results = [add.delay(i, 1) for i in range(10)]
    failed = app.tasks["fail"].delay("bad luck")
    failed.then(lambda _: None, on_error=errors.append)
    members = group(add.s(i, i) for i in range(3))()
    members.then(lambda result: calls.append(result.get()))
    for result in results:
        result.then(lambda result: calls.append(result.get()))
    assert [result.get(timeout=60) for result in results] == list(range(1, 11))
    assert members.get(timeout=60) == [0, 2, 4]
    wait_until(lambda: len(calls) == 11, "all callbacks")
    assert [0, 2, 4] in calls
    with pytest.raises(ValueError, match="bad luck"):
        failed.get(timeout=60)
    wait_until(lambda: errors, "on_error")
    assert results[0].ready()
    assert app.AsyncResult(results[0].id).state == "SUCCESS"
    assert app.AsyncResult(results[0].id).get(timeout=0) == 1
    members.save()
    # A list of results, where it is MongoDB.
    restored = GroupResult.restore(members.id, app=app)
    assert [result.get(timeout=60) for result in list(restored)] == [0, 2, 4]
    results[0].forget()
    assert app.AsyncResult(results[0].id).state == ("PENDING" if server.forgets else "SUCCESS")
    assert total.get(timeout=60) == 6


def test_states_in_between(app: Celery) -> None:
    watcher, task_id = None, uuid()
    watcher = Watcher(app.AsyncResult(task_id))
    for step in (1, 2):
        store(app, {"step": step}, "PROGRESS", task_id)
        wait_until(lambda: len(watcher.seen) == step, "the step")  # noqa: B023
    store(app, "end", task_id=task_id)
    watcher.wait()
    assert [state.result for state in watcher.seen] == [{"step": 1}, {"step": 2}, "end"]


def test_what_is_read_with_others_is_what_is_read_alone(
    app: Celery, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathered, "PATIENCE", 60)
    read_alone_and_together(app)
    assert app.backend.gathers is isinstance(server, GATHER)


def test_what_is_there_already_and_what_is_not(app: Celery) -> None:
    ids = [store(app, i) for i in range(12)]
    assert crowd(12, lambda i: app.AsyncResult(ids[i]).get(timeout=60)) == list(range(12))
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        app.AsyncResult(uuid()).get(timeout=0.3)
    assert 0.3 <= time.monotonic() - begun < 1.3
    assert app.backend.result_consumer.statistics().connects == 1


def test_a_server_that_goes_and_comes_back(
    make: Make, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    app = make(server, result_drainer_retry_max=0.3)
    result, calls = app.AsyncResult(uuid()), []
    result.then(lambda result: calls.append(result.get()))
    got = spawn_get(result)
    consumer = app.backend.result_consumer
    wait_until(lambda: consumer.connections, "the first look")
    server.stop()
    try:
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            app.AsyncResult(uuid()).get(timeout=1)
        assert time.monotonic() - begun < 1.5
        if not server.patient:
            wait_until(lambda: not consumer.connections, "the loss of the connection")
    finally:
        server.start()
    store(app, "after the outage", task_id=result.id)
    wait_until(lambda: got and calls, "the result", timeout=60)
    assert got == calls == ["after the outage"]
    if not server.patient:
        wait_until(lambda: "back after" in caplog.text, "the line that says so")
        assert ["Lost" in line for line in told(caplog)] == [True, False]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What this package has logged."""
    ours = [record for record in caplog.records if record.name.startswith("celery_green_drain")]
    return [record.getMessage() for record in ours]


def test_a_thousand_results_and_an_outage_in_the_middle(make: Make) -> None:
    server, count = MongoServer(), size(1000, 300)
    try:
        app = make(server, result_drainer_retry_max=0.3)
        ids = [uuid() for _ in range(count)]
        waits = [spawn_get(app.AsyncResult(task_id), timeout=100) for task_id in ids]
        statistics = app.backend.result_consumer.statistics
        wait_until(lambda: statistics().pending == count, "all waits", timeout=60)
        # Now, as the driver of this app may need longer than half a second to see the server again.
        like = app.backend.collection.find_one({"_id": store(app)})
        store_all(server, like, ids[: count // 2])
        wait_until(lambda: any(waits), "the first results", timeout=60)
        server.stop()
        wait_until(lambda: not statistics().connections, "the loss of the connection")
        server.start()
        store_all(server, like, ids[count // 2 :])
        wait_until(lambda: all(waits), "all results", timeout=60)
        assert [got[0] for got in waits] == ids
    finally:
        server.end()


def store_all(server: MongoServer, like: dict[str, Any], ids: list[str]) -> None:
    """Store a result for each of *ids*, which is that id, as Celery has stored *like*."""
    with server.client() as client:
        client.celery.celery_taskmeta.insert_many(
            [{**like, "_id": task_id, "result": json.dumps(task_id)} for task_id in ids]
        )


@pytest.mark.parametrize("server", ["dynamodb"], indirect=True)
def test_what_dynamodb_leaves_out_is_asked_for_again(make: Make, server: Server) -> None:
    """It answers with 16 MB at most; this one with less."""
    app = make(server)
    ids = [store(app, f"{i}" + 100_000 * "x") for i in range(30)]
    got = crowd(30, lambda i: app.AsyncResult(ids[i]).get(timeout=60))
    assert [value.rstrip("x") for value in got] == [f"{i}" for i in range(30)]


# -- a refused login


@pytest.mark.parametrize("server", ["azure", "mariadb"], indirect=True)
def test_a_refused_login_is_told_to_who_waits(make: Make, server: Server) -> None:
    if isinstance(server, AzureServer):
        refused(make, server, server.url(key=base64.b64encode(b"wrong").decode()), "authenticate")
    else:
        assert isinstance(server, MariaServer)
        refused(make, server, server.url(login="nobody:wrong"), "Access denied")


def test_a_refused_login_of_mongodb(make: Make) -> None:
    server = MongoServer()
    try:
        server.demand_login()
        url = server.url(login="boss:wrong@") + "&authSource=admin"
        refused(make, server, url, "authentication failed")
    finally:
        server.end()


def refused(make: Make, server: Server, url: str, words: str) -> None:
    """``get()`` raises at once, where stock Celery does."""
    # Else a database refuses already when its backend is made.
    conf = {"database_create_tables_at_setup": False}
    app, called = make(server, url, **conf), []
    app.AsyncResult(uuid()).then(called.append, on_error=called.append)
    with pytest.raises(Exception, match=words):
        app.AsyncResult(uuid()).get(timeout=60)
    # The callback waits for the right one.
    assert (called, app.backend.result_consumer.statistics().callbacks_pending) == ([], 1)
    with pytest.raises(Exception) as stock:  # noqa: PT011
        make_app("memory://", url, **conf).AsyncResult(uuid()).get(timeout=60)
    assert not isinstance(stock.value, TimeoutError)


# -- drivers


@pytest.mark.skipif(not GREEN, reason="there is no hub to be blocked")
@pytest.mark.parametrize("server", [*kinds(), *others()], indirect=True)
def test_a_slow_server_stalls_nobody_else(make: Make, server: Server) -> None:
    assert longest_pause(make, server) < DELAY


#: Drivers that block when they are called directly. Eventlet patches psycopg2, and gevent is known
#: to psycopg.
IN_C = {"mariadb, mysqlclient", "postgresql" if MODE == "eventlet" else "postgresql, psycopg2"}


@pytest.mark.skipif(not GREEN, reason="there is no hub to be blocked")
@pytest.mark.parametrize("server", sorted(IN_C), indirect=True)
def test_a_driver_that_blocks_would_be_seen(make: Make, server: Server) -> None:
    assert longest_pause(make, server, result_drainer_threads=False) > DELAY


#: Seconds that an answer is under way.
DELAY = 1.0


def longest_pause(make: Make, server: Server, **conf: Any) -> float:
    """How long a greenlet that wants to run was kept from it while a server answered late."""
    with proxied(server.port) as proxy:
        app = make(server, port=proxy.port, **conf)
        result = app.AsyncResult(uuid())
        assert result.state == "PENDING"
        got = spawn_get(result)
        wait_until(lambda: app.backend.result_consumer.connections, "the first look")
        proxy.tell(f"delay {DELAY / 2}")
        begun, ticker = time.monotonic(), Ticker()
        assert app.AsyncResult(uuid()).state == "PENDING"
        pause = ticker.stop()
        assert time.monotonic() - begun > 0.8 * DELAY
        proxy.tell("delay 0")
        store(app, "there", task_id=result.id)
        wait_until(lambda: got == ["there"], "the result")
    return pause


# -- what it costs

#: A server for each store that can be asked for many at once; the most requests of one look for
#: 1,000 ids.
ONE_LOOK = {
    "mongodb": (MongoServer, 2),
    "couchdb": (CouchServer, 2),
    "dynamodb": (MotoDynamoServer, 10),
}


@pytest.mark.parametrize("name", ONE_LOOK)
def test_a_thousand_waiters_are_few_requests_a_look(
    make: Make, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    looks = counted(monkeypatch)
    kind, most = ONE_LOOK[name]
    server, pause, count = kind(), 0.5, size(1000, 300)
    try:
        app = make(server, result_drainer_poll_min=pause, result_drainer_poll_max=pause)
        ids = [uuid() for _ in range(count)]
        waits = [spawn_get(app.AsyncResult(task_id), timeout=100) for task_id in ids]
        statistics = app.backend.result_consumer.statistics
        wait_until(lambda: statistics().pending == count, "all waits", timeout=60)
        wait_until(lambda: count in looks, "the first look for all")
        asked, looked = server.requests(), len(looks)
        wait_until(lambda: len(looks) >= looked + 3, "some looks")
        # One may have begun before the first count, or not be over.
        assert 2 <= server.requests() - asked <= most * (len(looks) - looked + 1)
        app.backend.store_result(ids[0], "the first", "SUCCESS")
        app.backend.store_result(ids[-1], "the last", "SUCCESS")
        wait_until(lambda: waits[0] and waits[-1], "the results", timeout=30)
        assert [waits[0], waits[-1]] == [["the first"], ["the last"]]
        app.backend.result_consumer.stop()
        wait_until(lambda: all(waits), "the ends of all waits", timeout=60)
    finally:
        server.end()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many ids each look is for, from now on."""
    looks: list[int] = []
    look = Poller.look

    def counting(self: Poller, task_ids: list[str]) -> None:
        looks.append(len(task_ids))
        look(self, task_ids)

    monkeypatch.setattr(Poller, "look", counting)
    return looks
