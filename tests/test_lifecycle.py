"""Processes, apps and drainers that begin and end, in the middle of waits; all counted."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import Celery, exceptions, uuid
from kombu import pools

from celery_green_drain import DrainerStopped

from .conftest import Gunicorn, in_gunicorn, storing
from .green import DRAINER, GREEN, MODE, crowd, drain_loops, size, spawn, wait_until
from .program import command, run
from .proxy import proxied
from .rabbitmq import RabbitServer
from .servers import UNMEASURED, Process, RedisServer, Worker, free_port
from .tasks import make_app

KINDS = ("redis", "rpc")


@pytest.fixture(params=KINDS)
def conf(request: pytest.FixtureRequest, broker: RedisServer, results: RedisServer) -> list[str]:
    """Broker and results of an app."""
    if request.param == "redis":
        request.getfixturevalue("worker")
        return [broker.url(), results.url("web")]
    request.getfixturevalue("rabbit_worker")
    return [request.getfixturevalue("rabbit").url(), "rpc://"]


def count() -> tuple[int, int, int]:
    """Drain loops, native threads and open files of this process, after all that can go has."""
    gc.collect()
    pools.reset()  # kombu's, which all apps share, and which hold as many as were used at once
    threads = len(os.listdir("/proc/self/task"))
    return drain_loops(), threads, len(os.listdir("/proc/self/fd"))


def use(app: Celery, values: int = 3) -> None:
    """Wait for results in each way."""
    called: list[Any] = []
    results = [app.tasks["add"].delay(i, 1) for i in range(values)]
    for result in results:
        result.then(lambda result: called.append(result.get(timeout=0)))
    assert [result.get(timeout=30) for result in results] == [i + 1 for i in range(values)]
    wait_until(lambda: sorted(called) == list(range(1, values + 1)), "the callbacks")


# -- apps


def test_apps_that_come_and_go_leave_nothing(conf: list[str]) -> None:
    """Each with a drainer of its own: no loop, thread or connection is left of any."""

    def come_and_go() -> Any:
        with make_app(*conf, result_drainer=DRAINER) as app:
            use(app)
            return weakref.ref(app)

    loops = drain_loops()
    come_and_go()  # what is loaded once for all
    wait_until(lambda: count()[0] == loops, "the end of the first loop")
    before = count()
    for _ in range(5):
        app = come_and_go()
        wait_until(lambda: gc.collect() >= 0 and app() is None, "the end of the app")  # noqa: B023
    left = f"{before} again, not {count()}"
    wait_until(
        lambda: gc.collect() >= 0 and all(map(int.__le__, count(), before)), left, timeout=60
    )


def test_an_app_that_goes_before_its_loop_has_noticed_a_wait(conf: list[str]) -> None:
    """Nobody is left whom another loop could serve, or who could stop it."""
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        release.wait(60)

    loops = drain_loops()
    with make_app(*conf, result_drainer=DRAINER) as app:
        use(app)
        app.backend.result_consumer.in_loop(hold)
        assert held.wait(60)
        with pytest.raises(exceptions.TimeoutError):
            app.AsyncResult(uuid()).get(timeout=0.01)
        gone = weakref.ref(app.backend)
        del app
    wait_until(lambda: gc.collect() >= 0 and gone() is None, "the end of the app")
    release.set()
    wait_until(lambda: drain_loops() == loops, "the end of the loop")


def test_an_app_that_goes_while_its_connection_breaks(
    make: Callable[..., Celery], results: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Where another thread collects it, the loop may find it gone before it is told."""
    loops = drain_loops()
    consumer = make().backend.result_consumer
    consumer.start()
    wait_until(lambda: consumer.statistics().connections, "the connection")
    consumer._backend = lambda: None  # what the collector clears first
    for client in results.clients():
        results.probe.client_kill_filter(_id=client["id"])
    wait_until(lambda: drain_loops() == loops, "the end of the loop")
    assert not caplog.records


def test_many_apps_at_once(
    make: Callable[..., Celery], conf: list[str], results: RedisServer
) -> None:
    """And two ways to the results in one process: none gets what is another's."""
    loops = drain_loops()
    apps = [make(broker=conf[0], results=conf[1]) for _ in range(8)]
    apps.append(make())
    values = crowd(size(180, 45), lambda i: apps[i % 9].tasks["add"].delay(i, 1).get(timeout=60))
    assert values == [i + 1 for i in range(len(values))]
    assert drain_loops() == loops + 9
    statistics = [app.backend.result_consumer.statistics() for app in apps]
    assert {each.connects for each in statistics} == {1}
    assert {each.pending for each in statistics} == {0}
    for app in apps:
        app.backend.result_consumer.stop()
    assert drain_loops() == loops


@pytest.fixture(autouse=True)
def _tasks(worker: Worker) -> None:
    """Somebody runs what is sent."""


def test_closed_and_used_again(make: Callable[..., Celery], conf: list[str]) -> None:
    """``app.close()`` is about the broker; what waits goes on."""
    app = make(broker=conf[0], results=conf[1])
    result = app.tasks["nap"].delay(0.5, "late")
    outcome: list[Any] = []
    result.then(lambda result: outcome.append(result.get(timeout=0)))
    app.close()
    wait_until(lambda: outcome == ["late"], "the callback")
    use(app)


def test_stopped_and_started_again_and_again(make: Callable[..., Celery], conf: list[str]) -> None:
    app = make(broker=conf[0], results=conf[1])
    consumer = app.backend.result_consumer
    loops = drain_loops()
    for _ in range(5):
        use(app)
        told: list[Any] = []

        def wait(told: list[Any] = told) -> None:
            try:
                app.AsyncResult(uuid()).get(timeout=60)
            except DrainerStopped as exc:
                told.append(exc)

        waiters = [spawn(wait) for _ in range(5)]
        wait_until(lambda: consumer.statistics().pending == 5, "the waits")
        consumer.stop()
        wait_until(lambda: len(told) == 5, "the end of the waits")  # noqa: B023
        consumer.stop()  # a thread that had only just noted its wait may have started it again
        assert (drain_loops(), consumer.statistics().connections) == (loops, 0)
        del waiters


# -- callbacks that never come to be called


@pytest.mark.parametrize("expires", [1, None, 0])
def test_callbacks_are_given_up_after_result_expires(
    make: Callable[..., Celery],
    conf: list[str],
    expires: int | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from celery.exceptions import TimeoutError
    from celery.result import GroupResult

    app = make(
        broker=conf[0],
        results=conf[1],
        result_expires=expires,
        result_drainer_heartbeat=1,
    )
    store = storing(app)
    assert app.AsyncResult(store(1)).get(timeout=20) == 1
    errors: list[Any] = []
    called: list[Any] = []
    never = [app.AsyncResult(uuid()) for _ in range(100)]
    for result in never:
        result.then(called.append, errors.append)
    app.AsyncResult(uuid()).then(called.append)  # has no on_error
    members = [app.AsyncResult(store(1)), app.AsyncResult(uuid())]
    GroupResult(uuid(), members, app=app).then(called.append, errors.append)
    late = app.AsyncResult(uuid())
    outcome: list[Any] = []
    late.then(lambda result: outcome.append(result.get(timeout=0)))
    spawn(lambda: outcome.append(late.get(timeout=60)))
    statistics = app.backend.result_consumer.statistics
    wait_until(lambda: statistics().pending == 103, "all of them")
    if expires:
        wait_until(lambda: len(errors) == 101, "the errors")
        assert {type(error).__name__ for error in errors} == {"ResultNeverCame"}
        assert all(isinstance(error, TimeoutError) for error in errors)
        assert {result.id for result in never} < {error.task_id for error in errors}
        assert "result_expires" in str(errors[0])
        wait_until(lambda: statistics().pending == 1, "the end of all but the one in get()")
        wait_until(lambda: "Their callbacks are given up" in caplog.text, "the log line")
    else:
        time.sleep(1.5)  # longer than the heartbeat, after which it is first looked at
        assert statistics().pending == 103
    store(2, task_id=late.id)
    wait_until(lambda: outcome == [2, 2], "the result that somebody waited for")
    # And it may be waited for again.
    store(3, task_id=never[0].id)
    assert never[0].get(timeout=20) == 3
    if expires:
        assert called == []
    else:
        wait_until(lambda: called == [never[0]], "the callback that was kept")


def test_an_outage_does_not_count(
    make: Callable[..., Celery], results: RedisServer, rabbit: RabbitServer
) -> None:
    """What has come during an outage is seen before anything is given up."""
    with proxied(results.port) as proxy:
        through = results.url("web", port=proxy.port)
        conf = {"result_expires": 2, "result_drainer_heartbeat": 1}
        app = make(results=through, **conf, result_drainer_retry_max=0.5)
        store = storing(make(**conf))
        outcome: list[Any] = []
        result = app.AsyncResult(uuid())
        result.then(lambda result: outcome.append(result.get(timeout=0)), outcome.append)
        wait_until(lambda: results.subscriptions() == 1, "the subscription")
        proxy.refuse()
        time.sleep(2.5)
        store(1, task_id=result.id)
        proxy.pass_on()
        wait_until(lambda: outcome, "the callback")
        assert outcome == [1]


# -- forks


def test_billiard(conf: list[str]) -> None:
    """What Celery's prefork pool forks with."""
    script = run("billiard_children", *conf, timeout=100)
    assert (script.returncode, script.stdout) == (0, "fine\n"), script.stderr
    assert "Traceback" not in script.stderr


@pytest.mark.skipif(GREEN, reason="the worker is a process of its own, and not patched")
def test_a_prefork_worker_whose_tasks_wait(
    make: Callable[..., Celery], broker: RedisServer, results: RedisServer
) -> None:
    url = broker.url(database=13)
    worker = Worker(url, results.url("worker"), pool="prefork", drainer="auto")
    app = make(broker=url)
    try:
        # One after another, as a task that waits needs another process for the other task.
        asked = [app.tasks["ask"].delay(i).get(timeout=60) for i in range(5)]
        assert asked == [i + 1 for i in range(5)]
    finally:
        worker.end()


@pytest.mark.skipif(GREEN, reason="they are processes of their own")
def test_eventlet_by_hand(conf: list[str]) -> None:
    """Used, then forked into four processes that listen on one socket, as gunicorn would."""
    port = free_port()
    process = Process(
        *command("eventlet_site", str(port)),
        SITE_BROKER=conf[0],
        SITE_RESULTS=conf[1],
        SITE_DRAINER="eventlet",
        TESTS_MODE="eventlet",
    )
    wait_until(lambda: "ready" in process.output(), "the site")

    def fetch(x: int) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/?x={x}", timeout=60) as response:
            return json.load(response)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(fetch, range(200)))
    assert [answer["value"] for answer in answers] == [x + 1 for x in range(200)]
    assert all(answer["called"] == answer["value"] for answer in answers)
    assert {answer["loops"] for answer in answers} == {1}
    assert {answer["drainer"] for answer in answers} == {"EventletDrainer"}
    assert len({answer["pid"] for answer in answers}) > 1
    process.end()
    assert "Traceback" not in process.output()


# -- the end of processes


@pytest.mark.parametrize("fault", ["refuse", "swallow"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_end_of_the_interpreter_in_an_outage(
    kind: str, fault: str, results: RedisServer, rabbit: RabbitServer, broker: RedisServer
) -> None:
    """Silent, and within a bound for all apps together."""
    server: Any = results if kind == "redis" else rabbit
    with proxied(server.port) as proxy:
        passing = server.url().replace(f":{server.port}/", f":{proxy.port}/")
        urls = [broker.url(), passing] if kind == "redis" else [rabbit.url(), "rpc://"]
        script = subprocess.Popen(
            [
                *command("end_in_an_outage", MODE, *urls, DRAINER),
                *("" if kind == "redis" else passing, "4"),
            ],
            env=UNMEASURED,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert script.stdout is not None
        assert script.stdout.readline() == "ends\n"
        proxy.tell(fault)
        begun = time.monotonic()
        out, err = script.communicate("\n", timeout=60)
        told = "The process ends, and no result of task "
        assert (script.returncode, out.count("\n"), out.count(told), err) == (0, 4, 4, "")
        # The four have two seconds together for their callbacks, and two for their farewell.
        assert time.monotonic() - begun < 2 + 2 + 4


@in_gunicorn
def test_sigterm_in_the_middle_of_waits(gunicorn: Callable[..., Gunicorn], conf: list[str]) -> None:
    """Each request that has begun gets its answer, and another worker takes what comes."""
    site = gunicorn(conf, workers=2)
    pids: set[int] = set()
    wait_until(lambda: pids.add(site.fetch("/state")["pid"]) or len(pids) == 2, "both workers")
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(site.fetch, f"/?x={x}&nap=2") for x in range(20)]
        wait_until(lambda: sum(site.fetch("/state")["pending"] for _ in range(2)), "the waits")
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        answers = [answer.result() for answer in asked]
    assert [answer["value"] for answer in answers] == [x + 1 for x in range(20)]
    assert {answer["pid"] for answer in answers} & pids
    others: set[int] = set()

    def replaced() -> bool:
        others.add(site.fetch("/?x=1")["pid"])
        return len(others - pids) == 2

    wait_until(replaced, "two new workers", timeout=60)
