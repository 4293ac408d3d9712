"""Mistakes of set-up, each made for real: what one sees of them, and what the doctor says.

``docs/mistakes.csv`` is what these tests have seen. To write it anew::

    TESTS_WRITE=yes scripts/test applications -k mistakes
"""

from __future__ import annotations

import csv
import os
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, uuid
from celery.backends.redis import RedisBackend

from celery_green_drain import DrainerWarning
from celery_green_drain.backends.base import DrainedBackendMixin
from celery_green_drain.drainers import patching
from celery_green_drain.inspection import checks, executed
from celery_green_drain.inspection.doctor import diagnose
from celery_green_drain.inspection.findings import Finding

from ..green import wait_until
from ..proxy import proxied
from ..rabbitmq import RabbitServer
from ..servers import UNMEASURED, RedisServer, Worker, free_port
from ..stores import MemcachedServer
from ..tasks import make_app

TABLE = Path(__file__).parents[2] / "docs" / "mistakes.csv"

HEAD = ["Mistake", "Without the doctor", "The doctor"]

#: Seconds that a wait has: where nothing is to come, and where a result is.
PATIENCE = 1.0
LONG = 20.0


@dataclass
class Place:
    """Where mistakes are made."""

    broker: RedisServer
    results: RedisServer
    request: pytest.FixtureRequest
    monkeypatch: pytest.MonkeyPatch

    def app(self, conf: Mapping[str, Any]) -> Celery:
        """An app with these settings, and with those of the tests' servers."""
        settings = {"broker": self.broker.url(), "results": self.results.url("shop"), **conf}
        urls = settings.pop("broker"), settings.pop("results")
        return make_app(*urls, **{"task_publish_retry_policy": {"max_retries": 1}, **settings})

    def through(self, port: int) -> str:
        """The address of the results, through another port."""
        return self.results.url("shop").replace(str(self.results.port), str(port))


#: Makes a mistake, and takes it back: the settings to use meanwhile.
Maker = Callable[[Place], AbstractContextManager[Mapping[str, Any]]]

#: Settings for those who get no answer.
HASTY = {
    "result_drainer_heartbeat": 0.3,
    "redis_socket_timeout": 0.3,
    "redis_socket_connect_timeout": 0.3,
}

#: By what they are called in the table: what makes a mistake, and the ids that are found.
MISTAKES: dict[str, tuple[Maker, list[str]]] = {}


def mistake(name: str, *found: str) -> Callable[[Callable[[Place], Iterator[Any]]], None]:
    """Enter a mistake into the table; *found*: what the doctor is to say of it."""

    def enter(maker: Callable[[Place], Iterator[Any]]) -> None:
        assert name not in MISTAKES
        MISTAKES[name] = contextmanager(maker), list(found)

    return enter


def setting(name: str, found: list[str], **conf: Any) -> None:
    """A mistake that is nothing but wrong settings."""

    @mistake(name, *found)
    def make(place: Place) -> Iterator[Any]:
        ports = {"free": free_port(), "open": place.results.port}
        yield {
            key: value.format(**ports) if isinstance(value, str) else value
            for key, value in conf.items()
        }


#: Sends a task; returns the result to wait for.
Ask = Callable[[Celery], Any]


def send(app: Celery) -> Any:
    return app.tasks["add"].delay(2, 3)


def send_slow(app: Celery) -> Any:
    """One that is not over before it is waited for."""
    return app.tasks["nap"].delay(0.5, 5)


def send_nothing(app: Celery) -> Any:
    """A result of a worker with the same settings."""
    result = app.AsyncResult(uuid())
    app.backend.store_result(result.id, 5, "SUCCESS")
    return result


def ask_anew(app: Celery) -> Any:
    return app.AsyncResult(send(app).id)


def ask_late(app: Celery) -> Any:
    """For a result that a worker with the same settings has stored, and that has expired."""
    result = send_nothing(app)
    wait_until(lambda: app.AsyncResult(result.id).state == "PENDING", "its end")
    return result


# -- settings

setting("``result_drainer`` is not set", ["GD001"], result_drainer=None)
setting(
    "``results_drainer = 'auto'``", ["GD003", "GD001"], result_drainer=None, results_drainer="auto"
)
setting("``result_drainer = 'gevnt'``", ["GD002"], result_drainer="gevnt")
setting("``result_drainer_hartbeat = 3``", ["GD002"], result_drainer_hartbeat=3)
setting("``result_drainer_heartbeat = 'soon'``", ["GD002"], result_drainer_heartbeat="soon")
setting("``result_drainer_poll_min = 2``", ["GD002"], result_drainer_poll_min=2)
setting("``result_backend`` is not set", ["GD004"], results=None)
setting("``result_backend = 'disabled://'``", ["GD004"], results="disabled://")


@mistake("``result_backend`` is the path of a class", "GD005")
def _(place: Place) -> Iterator[Any]:
    path = f"{RedisBackend.__module__}:{RedisBackend.__qualname__}"
    yield {"results": path, "redis_port": place.results.port}


setting("``task_ignore_result = True``", ["GD006"], task_ignore_result=True)
setting("``task_always_eager = True``", ["GD008"], task_always_eager=True, ask=ask_anew)
setting("``result_expires = 1``", ["GD007"], result_expires=1, ask=ask_late)


# -- packages


@mistake("gevent is set, and not installed", "GD101")
def _(place: Place) -> Iterator[Any]:
    lack(place, "gevent")
    yield {"result_drainer": "gevent"}


@mistake("hiredis is not installed", "GD103")
def _(place: Place) -> Iterator[Any]:
    lack(place, "hiredis")
    yield {}


def lack(place: Place, name: str) -> None:
    """Have this process not find a package."""
    installed, find_spec = checks.installed, patching.find_spec
    place.monkeypatch.setattr(
        checks, "installed", lambda other: None if other == name else installed(other)
    )
    place.monkeypatch.setattr(
        patching, "find_spec", lambda other: None if other == name else find_spec(other)
    )


# -- Redis

setting("Redis is not there", ["GD201"], results="redis://127.0.0.1:{free}/0")
setting(
    "TLS, and the server has none",
    ["GD201"],
    results="rediss://127.0.0.1:{open}/0?ssl_cert_reqs=none",
    **HASTY,
)
setting("A wrong password", ["GD202"], results="redis://nobody:wrong@127.0.0.1:{open}/0")
setting("A database that there is not", ["GD201"], results="redis://127.0.0.1:{open}/4711")


@mistake("A firewall drops what is sent to Redis", "GD201")
def _(place: Place) -> Iterator[Any]:
    with proxied(place.results.port) as proxy:
        proxy.swallow()
        yield {"results": place.through(proxy.port), **HASTY}


@mistake("Redis is far away", "GD210")
def _(place: Place) -> Iterator[Any]:
    with proxied(place.results.port, delay=0.06) as proxy:
        place.monkeypatch.setattr("celery_green_drain.inspection.stores.PINGS", 3)
        yield {"results": place.through(proxy.port)}


@mistake("Two servers behind one address", "GD205")
def _(place: Place) -> Iterator[Any]:
    other = RedisServer()
    with proxied(place.results.port) as proxy:
        proxy.alternate(other.port)
        yield {"results": place.through(proxy.port)}
    other.end()


@mistake("Redis in cluster mode", "GD204", "GD214")
def _(place: Place) -> Iterator[Any]:
    server = RedisServer("--cluster-enabled", "yes")
    server.probe.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
    wait_until(lambda: server.probe.cluster("INFO")["cluster_state"] == "ok", "the cluster")
    yield {"results": server.url("shop"), "ask": send_nothing}
    server.end()


def without_rights(name: str, rights: str, found: str) -> None:
    @mistake(f"A user without the right to {name}", found)
    def make(place: Place) -> Iterator[Any]:
        granted = ["reset", "on", ">pw", "~*", "&*", "+@all", *rights.split()]
        place.results.probe.execute_command("ACL", "SETUSER", "few", *granted)
        yield {
            "results": place.results.url("shop").replace("://", "://few:pw@"),
            "ask": send_slow,
        }


without_rights("SUBSCRIBE", "-subscribe", "GD203")
without_rights("GET", "-get", "GD203")
without_rights("MGET", "-mget", "GD204")
without_rights("PING", "-ping", "GD204")


def set_up_badly(name: str, found: str, **options: Any) -> None:
    @mistake(name, found)
    def make(place: Place) -> Iterator[Any]:
        probe = place.results.probe
        before = {key: probe.config_get(key)[key] for key in options}
        for key, value in options.items():
            probe.config_set(key, value)
        yield {}
        for key, value in before.items():
            probe.config_set(key, value)


set_up_badly(
    "``maxmemory-policy allkeys-lru``",
    "GD206",
    **{"maxmemory-policy": "allkeys-lru", "maxmemory": "500mb"},
)
set_up_badly(
    "``client-output-buffer-limit pubsub 1mb 512kb 60``",
    "GD207",
    **{"client-output-buffer-limit": "pubsub 1mb 512kb 60"},
)
set_up_badly("``timeout 3``", "GD208", timeout=3)


@mistake("``maxclients`` is used up, nearly", "GD209")
def _(place: Place) -> Iterator[Any]:
    with ExitStack() as held:
        for _ in range(50):
            address = ("127.0.0.1", place.results.port)
            held.enter_context(closing(socket.create_connection(address)))
        clients = place.results.probe.info("clients")["connected_clients"]
        place.results.probe.config_set("maxclients", clients + 12)
        yield {}
        place.results.probe.config_set("maxclients", 10_000)


# -- other stores, and brokers

setting("RabbitMQ is not there", ["GD213"], broker="amqp://guest:pw@127.0.0.1:{free}//")
setting("memcached is not there", ["GD211"], results="cache+pymemcache://127.0.0.1:{free}/")


@mistake("A user of RabbitMQ who may not declare queues", "GD203")
def _(place: Place) -> Iterator[Any]:
    rabbit: RabbitServer = place.request.getfixturevalue("rabbit")
    rabbit.control("add_user", "poor", "pw")
    rabbit.control("set_permissions", "poor", "^$", ".*", ".*")
    yield {"broker": rabbit.url().replace("guest:guest", "poor:pw"), "results": "rpc://"}


@mistake("memcached is far away", "GD212")
def _(place: Place) -> Iterator[Any]:
    server = MemcachedServer()
    with proxied(server.port, delay=0.3) as proxy:
        yield {"results": f"cache+pymemcache://127.0.0.1:{proxy.port}/"}
    server.end()


# -- workers


@mistake("No worker runs", "GD301")
def _(place: Place) -> Iterator[Any]:
    yield {"broker": place.broker.url(database=9), "workers": True}


@mistake("The worker stores in another database of that Redis", "GD302", "...")
def _(place: Place) -> Iterator[Any]:
    key = "celery-task-meta-{}".format

    def ask(app: Celery) -> Any:
        result = send(app)
        wait_until(lambda: place.results.probe.exists(key(result.id)), "its end")
        return result

    yield {"results": place.results.url("shop", database=3), "ask": ask, "workers": True}


@mistake("The worker has another ``global_keyprefix``", "GD306", "GD308")
def _(place: Place) -> Iterator[Any]:
    yield {
        "result_backend_transport_options": {"global_keyprefix": "shop"},
        "workers": True,
    }


@mistake("The worker writes what is not accepted here", "GD305", "GD308")
def _(place: Place) -> Iterator[Any]:
    yield {"result_accept_content": ["yaml"], "workers": True}


@mistake("A queue that no worker consumes", "GD308")
def _(place: Place) -> Iterator[Any]:
    yield {"task_default_queue": "others", "workers": True}


CARELESS = """
from celery import Celery
app = Celery("careless", broker={broker!r}, backend={results!r})
app.conf.task_ignore_result = True
app.conf.worker_hijack_root_logger = False

@app.task(name="add")
def add(x, y):
    return x + y
"""


@mistake(
    "The worker has ``task_ignore_result``, and no ``result_backend_always_retry``",
    *("GD304", "GD307"),
)
def _(place: Place) -> Iterator[Any]:
    broker = place.broker.url(database=8)
    script = CARELESS.format(broker=broker, results=place.results.url("worker"))
    folder = place.request.getfixturevalue("tmp_path")
    (folder / "careless.py").write_text(script)
    worker = subprocess.Popen(
        [*f"{sys.executable} -m celery -A careless worker --pool solo -l INFO".split()],
        cwd=folder,
        env=UNMEASURED,
        stdout=(folder / "log").open("w"),
        stderr=subprocess.STDOUT,
    )
    wait_until(lambda: " ready." in (folder / "log").read_text(), "the worker", timeout=60)
    yield {"broker": broker, "workers": True}
    worker.kill()
    worker.wait()


# -- the table


def normal(text: str) -> str:
    """*text* without what is another one each time."""
    text = " ".join(text.split()).replace("*", r"\*")
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>", text)
    text = re.sub(r"(127\.0\.0\.1:|localhost:)\d+", r"\1<port>", text)
    text = re.sub(r"\?client_name=\w+", "", text)
    text = re.sub(r"\b\w+@[-\w.]+ (?=stores|has|writes)", "<worker> ", text)
    text = re.sub(r"\d+ of \d+ connections", "<n> of <n> connections", text)
    text = re.sub(r"0x[0-9a-f]+", "<address>", text)
    text = re.sub(r"/tmp/\S+/", "", text)
    text = re.sub(r"(?<=timed out after )\d+(\.\d+)?", "<n>", text)
    return re.sub(r"\d+(\.\d+)? (ms|seconds)\b", r"<n> \2", text)


#: Errors of others, which another version may put otherwise.
OTHERS = re.compile(
    r"\b(?!TimeoutError: The operation)\w*(?:Error|Refused|Disallowed|Unusable): .*?(?=GD\d{3}: |$)"
)


def seen(app: Celery, ask: Ask, patience: float) -> str:
    """What one sees who sends a task and waits for its result: warnings, and what comes of it."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", DrainerWarning)
        try:
            outcome = f"get() returns {ask(app).get(timeout=patience)}."
        except Exception as exc:
            outcome = f"{type(exc).__name__}: {exc}"
    lines = [f"{one.category.__name__}: {one.message}" for one in warned]
    return normal(" ".join([*lines, outcome]))


@contextmanager
def used(app: Celery) -> Iterator[Celery]:
    yield app
    backend = app._backend_cache
    if isinstance(backend, DrainedBackendMixin):
        backend.result_consumer.stop()
    app.close()


def said(findings: list[Finding]) -> str:
    return normal(" ".join(f"{finding.id}: {finding.text}" for finding in findings))


def ours(row: Iterable[str]) -> list[str]:
    return [OTHERS.sub("...", text) for text in row]


def names() -> list[str]:
    """Those of the table, in its order."""
    return [*MISTAKES, *PROCESSES]


class Table:
    """The one in the docs: rows are compared with it, or it is written."""

    def __init__(self) -> None:
        self.rows: dict[str, list[str]] = {}
        self.writes = "TESTS_WRITE" in os.environ
        with TABLE.open(newline="") as file:
            self.printed = {row[0]: row for row in csv.reader(file)}

    def patience(self, name: str) -> float:
        """Seconds to wait for a result: more, on a busy machine, where one is to come."""
        return LONG if "returns" in self.printed.get(name, ["", ""])[1] else PATIENCE

    def enter(self, *row: str) -> None:
        self.rows[row[0]] = list(row)
        assert self.writes or ours(row) == ours(self.printed[row[0]])

    def write(self) -> None:
        rows = {**self.printed, **self.rows}
        with TABLE.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([HEAD, *(rows[name] for name in names())])


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    table = Table()
    yield table
    if table.writes:
        table.write()


@pytest.fixture
def place(
    broker: RedisServer,
    results: RedisServer,
    worker: Worker,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    unsaid: None,
) -> Place:
    return Place(broker, results, request, monkeypatch)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake(place: Place, table: Table, name: str) -> None:
    maker, found = MISTAKES[name]
    with maker(place) as settings:
        conf = {"result_drainer": "auto", **settings}
        ask, workers = conf.pop("ask", send), conf.pop("workers", False)
        with used(place.app(conf)) as app:
            shown = seen(app, ask, table.patience(name))
        with used(place.app(conf)) as app:
            diagnosis = diagnose(app, timeout=0.5, workers=workers)
    findings = diagnosis.at_least("warning")
    if found[-1] == "...":  # what follows is a matter of luck
        found = found[:-1]
        findings = findings[: len(found)]
    assert [finding.id for finding in findings] == found
    table.enter(name, shown, said(findings))


# -- the web process

SHOP = """
from celery import Celery
app = Celery("shop", broker={broker!r}, backend={results!r})
app.conf.result_drainer = "gevent"

@app.task(name="add")
def add(x, y):
    return x + y
"""

#: As a program that serves: it does so until it is ended, or gets one result only.
WEB = """
{patch}
import sys, time, warnings
from celery_green_drain import DrainerWarning
from shop import app
{more}
if sys.argv[1:] == ["get"]:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", DrainerWarning)
        value = app.tasks["add"].delay(2, 3).get(timeout=20)
    for one in warned:
        print(f"DrainerWarning: {{one.message}}")
    print(f"get() returns {{value}}.")
else:
    time.sleep(60)
"""

GEVENT = "from gevent import monkey; monkey.patch_all({})"
EVENTLET = "import eventlet; eventlet.monkey_patch()"

#: What is wrong in a web process: how it begins, what it does with the app, and what is found.
PROCESSES = {
    "gevent is set, and nothing patches": ("", "", "GD402"),
    "gevent is set, and eventlet patches": (EVENTLET, "", "GD402"),
    "gevent patches without threads": (GEVENT.format("thread=False"), "", "GD402"),
    "gevent and eventlet patch": (f"{GEVENT.format('')}; {EVENTLET}", "", "GD402"),
    "The web process has other settings": ("", "app.conf.result_drainer = None", "GD001"),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_mistake_in_the_web_process(
    place: Place, table: Table, tmp_path: Path, name: str
) -> None:
    patch, more, found = PROCESSES[name]
    shop = SHOP.format(broker=place.broker.url(), results=place.results.url("shop"))
    (tmp_path / "shop.py").write_text(shop)
    (tmp_path / "web.py").write_text(WEB.format(patch=patch, more=more))
    place.monkeypatch.chdir(tmp_path)
    place.monkeypatch.setattr(executed, "QUIET", 0.3)  # it is one process
    place.monkeypatch.setattr(executed, "_path_of", lambda app: "shop:app")
    command = [sys.executable, "-W", "ignore", "web.py"]
    output: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    getting = subprocess.Popen([*command, "get"], env=UNMEASURED, **output)
    findings = list(executed.check_command(None, " ".join(command), {}))
    shown, _ = getting.communicate(timeout=60)
    assert [finding.id for finding in findings] == [found]
    table.enter(name, normal(shown), said(findings))


@pytest.mark.skipif("TESTS_WRITE" in os.environ, reason="it is being written")
def test_the_table_has_no_other_rows() -> None:
    with TABLE.open(newline="") as file:
        assert [row[0] for row in csv.reader(file)] == [HEAD[0], *names()]
