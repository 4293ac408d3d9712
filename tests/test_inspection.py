"""To see inside: figures, the report, and events."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from celery import Celery, uuid
from celery.exceptions import ImproperlyConfigured, TimeoutError
from celery.utils.dispatch import Signal
from click.testing import CliRunner
from flask import Flask
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from celery_green_drain import (
    DrainerStopped,
    ResultNeverCame,
    Statistics,
    addresses,
    report,
    signals,
    statistics,
    watch,
    wsgi_report,
)
from celery_green_drain.figures import SAMPLE
from celery_green_drain.inspection.command import green_drain
from celery_green_drain.prometheus import PREFIX, Collector

from .conftest import Line, in_gunicorn
from .green import (
    DRAINER,
    GREEN,
    MODE,
    crowd,
    green_timeout,
    size,
    spawn,
    spawn_get,
    wait_until,
)
from .servers import Process, RedisServer
from .tasks import make_app

# -- off, and at the beginning


def test_off() -> None:
    app = Celery(backend="redis://")
    assert statistics(app) == Statistics(on=False)
    assert "off: result_drainer is not set" in str(report(app))
    app.conf.result_backend = "django-db"
    assert report(app)["statistics"]["on"] is False


def test_on_and_not_serving() -> None:
    app = Celery(backend="celery.backends.redis:RedisBackend")
    app.conf.result_drainer = DRAINER
    assert not statistics(app).on
    shown = report(app)
    assert "off: it does not serve this result backend" in str(shown)
    del shown["versions"]["celery-green-drain"]  # as in a frozen program, where Celery finds none
    assert "off: Celery does not find it, as the metadata of celery-green-drain" in str(shown)


def test_refused_settings() -> None:
    app = Celery(backend="redis://")
    app.conf.result_drainer_hartbeat = 3
    with pytest.raises(ImproperlyConfigured, match="hartbeat"):
        statistics(app)
    shown = report(app)
    assert "Did you mean 'result_drainer_heartbeat'" in shown["problem"]
    assert "hartbeat" in str(shown)


def test_before_anybody_waits(make: Callable[..., Celery], results: RedisServer) -> None:
    app = make()
    figures = statistics(app)
    assert (figures.on, figures.drainer, figures.running) == (True, None, False)
    assert "none so far" in str(report(app))
    assert not results.clients()


# -- figures


def test_what_is_counted(app: Celery, worker: object) -> None:
    tasks = app.tasks
    before = time.time()
    assert tasks["add"].delay(1, 2).get(timeout=20) == 3
    with pytest.raises(ValueError, match="on purpose"):
        tasks["fail"].delay().get(timeout=20)
    with pytest.raises(TimeoutError):
        app.AsyncResult(uuid()).get(timeout=0.1)
    wait_until(lambda: statistics(app).timeouts == 1 and not statistics(app).pending, "the timeout")
    figures = statistics(app)
    assert (figures.running, figures.pending, figures.oldest) == (True, 0, None)
    assert (figures.delivered, figures.failures, figures.connects) == (2, 1, 1)
    assert figures.connected_since is not None
    assert before - 1 < figures.connected_since < time.time() + 1
    assert sum(figures.waits.counts) == 2
    assert figures.waits.sum > 0


def test_the_lag_is_from_the_end_of_the_task(app: Celery, store: Callable[..., str]) -> None:
    stored_before = store(1)
    time.sleep(0.2)
    assert app.AsyncResult(stored_before).get(timeout=20) == 1
    assert statistics(app).lag_p50 is None  # it was late by nobody's fault
    time.sleep(2 * SAMPLE)  # of results that come faster than that, one is measured
    task_id = uuid()
    got = spawn_get(app.AsyncResult(task_id))
    wait_until(lambda: statistics(app).pending, "the wait")
    store(2, task_id=task_id)
    wait_until(lambda: got == [2], "the result")
    figures = statistics(app)
    assert figures.lag_p50 is not None
    assert 0 <= figures.lag_p50 <= figures.lag_p99 < 5  # type: ignore[operator]
    assert sum(figures.lag.counts) == 1


def test_callbacks_are_counted(app: Celery, store: Callable[..., str]) -> None:
    go = threading.Event()
    app.AsyncResult(store(1)).then(lambda result: go.wait(20))
    app.AsyncResult(store(2)).then(lambda result: 1 / 0)
    pending = app.AsyncResult(uuid())
    pending.then(lambda result: None)
    wait_until(lambda: statistics(app).callbacks_raised == 1, "the one that raises")
    wait_until(lambda: statistics(app).callbacks_running == 1, "the one that waits")
    wait_until(lambda: statistics(app).callbacks_pending == 1, "the one that is to come")
    assert statistics(app).callbacks_run == 1
    go.set()
    wait_until(lambda: statistics(app).callbacks_run == 2, "both")
    assert (statistics(app).callbacks_raised, statistics(app).callbacks_running) == (1, 0)


def test_many_callbacks_are_counted_exactly(app: Celery, store: Callable[..., str]) -> None:
    count = size(500, 100)
    task_id = store(1)
    for number in range(count):
        result = app.AsyncResult(task_id)
        result.then(lambda result: None if number % 2 else 1 / 0)  # noqa: B023
    wait_until(lambda: statistics(app).callbacks_run == count, "all callbacks")
    assert statistics(app).callbacks_running == 0


def test_waits_that_are_stopped(app: Celery) -> None:
    got = [spawn_get(app.AsyncResult(uuid())) for _ in range(3)]
    wait_until(lambda: statistics(app).pending == 3, "the waits")
    app.backend.result_consumer.stop()
    wait_until(lambda: all(got), "their end")
    assert all(isinstance(error, DrainerStopped) for (error,) in got)
    figures = statistics(app)
    assert (figures.stopped, figures.running, figures.connected_since) == (3, False, None)


# -- the report


def follow(result: Any) -> None:
    with suppress(DrainerStopped):
        list(watch(result))


def test_who_waits(app: Celery) -> None:
    ids = [uuid() for _ in range(4)]
    app.AsyncResult(ids[0]).then(lambda result: None)
    wait_until(lambda: statistics(app).pending == 1, "the first")
    spawn_get(app.AsyncResult(ids[1]))
    wait_until(lambda: statistics(app).pending == 2, "the second")
    spawn(follow, app.AsyncResult(ids[2]))
    wait_until(lambda: statistics(app).pending == 3, "the third")
    members = app.GroupResult(uuid(), [app.AsyncResult(ids[3])])
    members.then(lambda result: None)
    wait_until(lambda: statistics(app).pending == 4, "the fourth")
    shown = report(app)
    assert [task["task_id"] for task in shown["pending"]] == ids
    assert [task["kinds"] for task in shown["pending"]] == [["then"], ["get"], ["watch"], ["group"]]
    assert [task["waits"] for task in shown["pending"]] == [0, 1, 1, 0]
    ages = [task["age"] for task in shown["pending"]]
    assert ages == sorted(ages, reverse=True)
    assert all(task_id in str(shown) for task_id in ids)
    shown = report(app, limit=2)
    assert [task["task_id"] for task in shown["pending"]] == ids[:2]
    assert "and 2 more" in str(shown)
    app.backend.result_consumer.stop()


def test_it_is_json_and_tells_the_process(app: Celery, store: Callable[..., str]) -> None:
    app.AsyncResult(store(1)).get(timeout=20)
    shown = json.loads(json.dumps(report(app)))
    assert shown["process"]["pid"] == os.getpid()
    assert list(shown["process"]["patched_by"]) == ([MODE] if GREEN else [])
    assert shown["versions"]["celery"]
    assert shown["settings"]["drainer"] == DRAINER
    assert shown["statistics"]["delivered"] == 1
    assert shown["backend"].endswith("backends.redis.RedisBackend")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@h:1/0", "redis://:**@h:1/0"),
        ("redis://u:se,cr@et@h/0", "redis://u:**@h/0"),
        ("redis://h/0?password=secret&a=b", "redis://h/0?password=**&a=b"),
        ("sentinel://:secret@h:1;sentinel://:secret@i:2", "sentinel://:**@h:1;sentinel://:**@i:2"),
        (["amqp://a:secret@h//", "amqp://i//"], "amqp://a:**@h//;amqp://i//"),
        ("redis://h:1/0?client_name=web", "redis://h:1/0?client_name=web"),
        (None, ""),
    ],
)
def test_passwords_are_not_shown(url: Any, shown: str) -> None:
    assert addresses.masked(url) == shown
    app = Celery(backend="rpc://", broker=url)
    app.conf.result_drainer = DRAINER
    assert "secret" not in str(report(app)) + json.dumps(report(app))


def test_ten_thousand_waits(app: Celery) -> None:
    """It is bounded: the time is of this thread alone, as others may be busy."""
    kept = [app.AsyncResult(uuid()) for _ in range(10_000)]
    for result in kept:
        result.then(lambda result: None)
    wait_until(lambda: statistics(app).pending == 10_000, "the waits")
    began = time.thread_time()
    shown = report(app)
    stopped = time.thread_time() - began  # it lets nobody else run
    text = str(shown)
    took = time.thread_time() - began
    assert stopped < 0.01
    assert took < 0.05
    assert len(text) + len(json.dumps(shown)) < 40_000
    for result in kept:
        app.backend.remove_pending_result(result)


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"HTTP_ACCEPT": "application/json"}, "application/json"),
        ({"QUERY_STRING": "json"}, "application/json"),
        ({}, "text/plain; charset=utf-8"),
    ],
)
def test_over_http(app: Celery, asked: dict[str, str], kind: str) -> None:
    environ: dict[str, Any] = {"QUERY_STRING": "", **asked}
    setup_testing_defaults(environ)
    begun: list[Any] = []
    answer: Any = validator(wsgi_report(app))(
        environ, lambda status, headers: begun.append((status, dict(headers)))
    )
    body = b"".join(answer)
    answer.close()
    ((status, headers),) = begun
    assert (status, headers["Content-Type"]) == ("200 OK", kind)
    assert (json.loads(body)["statistics"]["on"]) if "json" in kind else b", on" in body


SIGNALLED = """
import signal, sys, time
from celery_green_drain import install_signal_report
from tests.launch import patch
patch({mode!r})
from celery import Celery
app = Celery("shop", backend="redis://:secret@127.0.0.1/0")
app.conf.result_drainer = {drainer!r}
app.set_current()
install_signal_report(signal.SIGUSR2)
print("ready", flush=True)
time.sleep(60)
"""


def test_on_a_signal() -> None:
    script = SIGNALLED.format(mode=MODE, drainer=DRAINER)
    process = Process(sys.executable, "-c", script)
    wait_until(lambda: "ready" in process.output(), "the process", timeout=60)
    process.send(signal.SIGUSR2)
    wait_until(lambda: "versions" in process.output(), "the report")
    process.end()
    assert "redis://:**@127.0.0.1/0" in process.output()
    assert "secret" not in process.output()


@in_gunicorn
def test_each_worker_of_a_gunicorn(
    gunicorn: Callable[..., Any],
    worker: object,
    broker: RedisServer,
    results: RedisServer,
    tmp_path: Path,
) -> None:
    """With the configuration that the docs print, the figures of all add up to what was asked."""
    site = gunicorn(
        [broker.url(), results.url("site")],
        workers=2,
        options=["-c", str(printed("running", "def post_worker_init", tmp_path))],
        SITE_ADDED=str(printed("monitoring", "def metrics", tmp_path)),
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path),
    )
    count = 100
    answers = crowd(count, lambda number: site.fetch(f"/?x={number}"))
    assert sorted(answer["value"] for answer in answers) == list(range(1, count + 1))
    pids = {answer["pid"] for answer in answers}
    while len(pids) < 2:
        pids.add(site.fetch("/state")["pid"])
    for pid in pids:
        os.kill(pid, signal.SIGUSR2)
    wait_until(lambda: site.process.output().count("versions ") == 2, "the reports")
    shown = [int(number) for number in re.findall(r"delivered=(\d+)", site.process.output())]
    assert sum(shown) == count + 1  # the first one was to see whether it answers
    shown = CliRunner().invoke(green_drain, ["top", site.url("/inside"), "--count", "1"])
    assert shown.exit_code == 0, shown.output
    head, *rows = shown.output.splitlines()
    assert head.split()[:2] == ["PID", "PENDING"]
    assert {int(row.split()[0]) for row in rows} <= pids
    assert all(row.split()[-1] == "1" for row in rows)
    failed = CliRunner().invoke(green_drain, ["top", site.url("/state"), "--count", "1"])
    assert "serves no report of celery_green_drain" in failed.output
    samples = wait_until(lambda: settled(site, count + 1), "the metrics of both")
    assert samples["results_total failure"] == 0
    assert samples["callbacks_total returned"] == count + 1
    assert samples["wait_seconds_count"] == samples["wait_seconds_bucket +Inf"] == count + 1
    assert samples["connections"] == samples["connects_total"] == 2
    assert samples["pending"] == samples["outage"] == 0


def test_columns_stay_apart(app: Celery) -> None:
    told = report(app)
    told["statistics"].update(oldest=0.000123456, lag_p99=0.00124, failures=10**9)

    def answer(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(told).encode()]

    with make_server("127.0.0.1", 0, answer, handler_class=Silent) as server:
        spawn(server.handle_request)
        url = f"http://127.0.0.1:{server.server_port}/"
        shown = CliRunner().invoke(green_drain, ["top", url, "--count", "1", "--asks", "1"])
    row = shown.output.splitlines()[-1]
    assert {"0.000123 s", "0.00124 s", "1000000000"} <= set(re.split(r" {1,}(?!s)", row.strip()))


class Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


def settled(site: Any, count: int) -> dict[str, float] | None:
    """The samples that one worker has of both, once they add up: each writes every second."""
    samples = {}
    for family in text_string_to_metric_families(site.read("/metrics")):
        for one in family.samples:
            labels = dict(one.labels)
            assert (labels.pop("app"), labels.pop("backend")) == ("tests", "redis")
            samples[" ".join([one.name[len(PREFIX) + 1 :], *labels.values()])] = one.value
    told = samples["results_total result"]
    assert told <= count
    return samples if told == samples["callbacks_total returned"] == count else None


def printed(page: str, word: str, folder: Path) -> Path:
    """The block of that page in which *word* is, as a file, for the tests' site."""
    text = (Path(__file__).parent.parent / "docs" / f"{page}.rst").read_text()
    blocks = re.findall(r"code-block:: python\n(?:   :caption.*\n)?\n((?:   .*\n|\n)+)", text)
    (block,) = (block for block in blocks if word in block)
    file = folder / f"{page}.py"
    file.write_text(textwrap.dedent(block).replace("shop.celery", "tests.site"))
    return file


@pytest.mark.skipif(MODE != "unpatched", reason="one mode is enough for a framework")
def test_in_flask_and_django(make: Callable[..., Celery], django: Path) -> None:
    """As the docs print it."""
    app = make()
    page = (Path(__file__).parent.parent / "docs" / "monitoring.rst").read_text()
    blocks = re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", page)
    in_flask, in_django = (
        textwrap.dedent(next(block for block in blocks if word in block))
        for word in ("jsonify", "JsonResponse")
    )
    web = Flask("inside")
    exec(in_flask, {"web": web, "app": app})
    assert web.test_client().get("/inside").get_json()["statistics"]["on"] is True
    names: dict[str, Any] = {"app": app}
    exec(in_django, names)
    assert json.loads(names["inside"](None).content)["statistics"]["on"] is True


# -- events


@contextmanager
def heard(*wanted: Signal) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Collect what *wanted* tell, beside receivers that raise, leave and sleep."""
    told: list[tuple[str, dict[str, Any]]] = []
    over = threading.Event()

    def receive(signal: Signal, **kwargs: Any) -> None:
        told.append((signal.name, kwargs))

    def raise_(**kwargs: Any) -> None:
        raise ValueError("a receiver that raises")

    def sleep(**kwargs: Any) -> None:
        over.wait(30)

    def leave(**kwargs: Any) -> None:
        sys.exit("a receiver that leaves")

    receivers: Iterable[Callable[..., None]] = (raise_, receive, sleep, leave)
    for one in wanted:
        for receiver in receivers:
            one.connect(receiver, weak=False)
    try:
        yield told
    finally:
        over.set()
        for one in wanted:
            for receiver in receivers:
                one.disconnect(receiver)


def test_the_begin_and_the_end(app: Celery, store: Callable[..., str]) -> None:
    with heard(signals.drainer_started, signals.drainer_stopped) as told:
        assert app.AsyncResult(store(1)).get(timeout=20) == 1
        app.backend.result_consumer.stop()
        wait_until(lambda: len(told) == 2, "both")
    assert [name for name, _ in told] == ["drainer_started", "drainer_stopped"]
    for _, arguments in told:
        assert arguments["sender"] is app
        assert DRAINER in arguments["drainer"].lower()
        assert arguments["address"].startswith("redis://127.0.0.1")


@pytest.mark.skipif(not GREEN, reason="a thread has no such timeout")
def test_a_receiver_that_ends_by_a_timeout_is_logged(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    """That of a green library is no Exception."""

    def give_up(**kwargs: Any) -> None:
        with green_timeout(0.01, raises=True):
            time.sleep(30)

    signals.drainer_started.connect(give_up, sender=app, weak=False)
    try:
        app.backend.result_consumer.start()
        wait_until(lambda: "A receiver of drainer_started raised" in caplog.text, "the line")
    finally:
        signals.drainer_started.disconnect(give_up, sender=app)


def test_an_outage(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    """Events, figures, report and log tell the same times; who waits is served meanwhile."""
    app, store = line.connect(result_drainer_retry_max=0.2)
    with heard(signals.connection_lost, signals.connection_back) as told:
        task_id = uuid()
        got = spawn_get(app.AsyncResult(task_id))
        wait_until(lambda: statistics(app).connections, "the connection")
        line.proxy.refuse()
        wait_until(lambda: told, "the loss")
        figures = statistics(app)
        assert (figures.outages, figures.connected_since) == (1, None)
        lost = told[0][1]
        assert figures.lost_at == lost["at"]
        # The next attempt is made at once, and fails in a way of its own.
        assert figures.last_error is not None
        assert figures.last_error_at is not None
        assert figures.last_error_at >= lost["at"]
        assert logged(caplog, "Lost the connection").created == pytest.approx(lost["at"], abs=0.5)
        assert lost["error"] in logged(caplog, "Lost the connection").getMessage()
        assert f"lost since {moment(lost['at'])}" in str(report(app))
        assert sample(app, "outage_start_timestamp_seconds") == lost["at"]
        assert (sample(app, "outage"), sample(app, "outages_total")) == (1, 1)
        store(1, task_id=task_id)
        line.proxy.pass_on()
        wait_until(lambda: got == [1], "the result")
        wait_until(lambda: len(told) == 2, "the end of the outage")
    back = told[1][1]
    assert [name for name, _ in told] == ["connection_lost", "connection_back"]
    figures = statistics(app)
    assert (figures.outages, figures.lost_at) == (1, None)
    assert figures.outage_seconds == back["seconds"] == sample(app, "outage_seconds_total")
    assert lost["at"] + back["seconds"] == back["at"]
    assert figures.connected_since == pytest.approx(back["at"], abs=0.5)
    assert f"since {moment(figures.connected_since or 0)}" in str(report(app))
    assert f"is back after {back['seconds']:.1f} s ({back['attempts']} attempts)" in caplog.text
    assert (sample(app, "outage"), sample(app, "outages_total")) == (0, 1)


def logged(caplog: pytest.LogCaptureFixture, begin: str) -> logging.LogRecord:
    (record,) = (record for record in caplog.records if record.getMessage().startswith(begin))
    return record


def moment(at: float) -> str:
    """As a report shows it."""
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def sample(app: Celery, name: str) -> float:
    """What is scraped under that name."""
    registry = CollectorRegistry()
    registry.register(Collector(app))
    kind = re.split("[: ]", addresses.result_address(app))[0]
    labels = {"app": "tests", "backend": kind}
    value = registry.get_sample_value(f"{PREFIX}_{name}", labels)
    assert value is not None
    return value


def test_a_callback_that_raises(
    app: Celery, store: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    with heard(signals.callback_raised) as told:
        task_id = store(1)
        app.AsyncResult(task_id).then(lambda result: 1 / 0)
        wait_until(lambda: told, "the event")
        assert app.AsyncResult(store(2)).get(timeout=20) == 2
    ((_, arguments),) = told
    assert task_id in arguments["name"]
    assert isinstance(arguments["exception"], ZeroDivisionError)


def test_a_result_that_never_comes(make: Callable[..., Celery]) -> None:
    app = make(result_expires=1, result_drainer_heartbeat=0.2)
    with heard(signals.result_given_up) as told:
        result = app.AsyncResult(uuid())
        result.then(lambda result: None)
        wait_until(lambda: told, "the event")
    ((_, arguments),) = told
    assert arguments["task_id"] == result.id
    assert isinstance(arguments["exception"], ResultNeverCame)
    # The callback was not called, unlike one that asks for errors.
    assert (statistics(app).given_up, statistics(app).callbacks_run) == (1, 0)
    result.then(None, told.append)
    wait_until(lambda: statistics(app).callbacks_run == 1, "the other one")
    assert isinstance(told[-1], ResultNeverCame)


def test_an_app_that_is_off_sends_nothing() -> None:
    app = make_app("memory://", "cache+memory://")
    with heard(signals.drainer_started) as told:
        assert app.tasks["add"].apply((1, 2)).get() == 3
    assert not told
