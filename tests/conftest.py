"""Fixtures: the servers once a session, an app for each test."""

from __future__ import annotations

import json
import mmap
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, uuid
from celery.app.task import Context
from celery.contrib.testing.worker import start_worker

from celery_green_drain import ResultConsumer, notices

from . import tls_proxy
from .green import DRAINER, GREEN, MODE, limit, wait_until
from .launch import BESIDE
from .ownership import watch_the_table
from .proxy import Proxy, proxied
from .rabbitmq import RabbitServer
from .servers import Process, RedisServer, Worker, free_port
from .stores import configure_django
from .tasks import make_app

#: These are tested once, beside the modes.
collect_ignore = [part for part in BESIDE if part != MODE]

#: For what runs in a gunicorn, whatever has patched this process.
in_gunicorn = pytest.mark.skipif(GREEN, reason="gunicorn is a process of its own")

#: Where results come from; and over which broker, where they are messages.
KINDS = ("redis", "rpc, rabbitmq", "rpc, redis", "rpc, memory")

#: Those that serve in green processes: with the last one the worker is in the tests' own process.
SERVED = KINDS[:-1] if GREEN else KINDS

#: Seconds that a test may take, and its fixtures as long again. Where nothing can be raised any
#: more, ``faulthandler_timeout`` in setup.cfg ends the process.
LIMIT = 360 if MODE in BESIDE else 150  # which wait for pip, and for whole applications

#: The fixtures of those whose app is the same for all tests of a module.
SHARED = {"rpc, redis": "redis_rpc_app", "rpc, memory": "memory_app"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test for each kind of its mark, or of its module's."""
    kinds = metafunc.definition.get_closest_marker("kinds")
    if kinds is not None and "app" in metafunc.fixturenames:
        metafunc.parametrize("app", kinds.args, indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    with limit(LIMIT):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    with limit(LIMIT):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    with limit(LIMIT):
        return (yield)


def pytest_report_header() -> str:
    return f"mode: {MODE}"


@pytest.fixture(scope="session")
def strangers() -> Iterator[list[str]]:
    """Where others than a drain loop have changed a table of pending results."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield watch_the_table(monkeypatch)


@pytest.fixture(autouse=True)
def _the_loop_alone_touches_the_table(strangers: list[str]) -> Iterator[None]:
    yield
    found, strangers[:] = "\n\n".join(strangers), []
    assert not found, f"Others than a drain loop have changed its table:\n{found}"


@pytest.fixture(scope="session")
def broker() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.end()


@pytest.fixture(scope="session")
def results() -> Iterator[RedisServer]:
    """The result store: apart from the broker, so that what it counts is for results."""
    server = RedisServer()
    yield server
    server.end()


@pytest.fixture(scope="session")
def worker(broker: RedisServer, results: RedisServer) -> Iterator[Worker]:
    worker = Worker(broker.url(), results.url("worker"))
    yield worker
    worker.end()


@pytest.fixture(scope="session")
def rabbit() -> Iterator[RabbitServer]:
    server = RabbitServer()
    yield server
    server.end()


@pytest.fixture(scope="session")
def rabbit_worker(rabbit: RabbitServer) -> Iterator[Worker]:
    """Takes tasks from RabbitMQ, and sends their results there."""
    worker = Worker(rabbit.url(), "rpc://")
    yield worker
    worker.end()


@pytest.fixture(scope="session")
def django() -> Iterator[Path]:
    """The folder of a Django project, which this process is then part of."""
    folder = configure_django()
    yield folder
    shutil.rmtree(folder)


@dataclass
class Line:
    """A way to the results, with a proxy on it. What is stored does not pass that."""

    proxy: Proxy
    make: Callable[..., Celery]
    conf: dict[str, Any]
    #: The configuration of who stores.
    beside: dict[str, Any]

    def connect(self, **conf: Any) -> tuple[Celery, Callable[..., str]]:
        """Make an app that waits over this line, and a function that stores results for it."""
        app = self.make(**self.conf, **conf)
        return app, storing(app, by=self.make(**self.beside))


@pytest.fixture(params=["redis", "rpc"])
def line(request: pytest.FixtureRequest, make: Callable[..., Celery]) -> Iterator[Line]:
    """A line to Redis, and one to RabbitMQ."""
    conf: dict[str, Any]
    if request.param == "redis":
        server: Any = request.getfixturevalue("results")
    else:
        server = request.getfixturevalue("rabbit")
    with proxied(server.port) as proxy:
        if request.param == "redis":
            through = server.url("web", port=proxy.port)
            conf, beside = {"results": through}, {}
        else:
            beside = {"broker": server.url(), "results": "rpc://"}
            conf = {**beside, "drained_from": server.url(proxy.port)}
        yield Line(proxy, make, conf, beside)
        proxy.pass_on()


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """A result store that a test may do anything to."""
    server = RedisServer()
    yield server
    server.end()


@pytest.fixture
def tls(tmp_path: Path) -> Callable[[int], AbstractContextManager[tuple[int, Path]]]:
    """Have a server speak TLS: the port for that, and the file of its authority."""

    return lambda target: tls_proxy.tls(target, tmp_path)


class Gunicorn:
    """A gunicorn of gevent workers with the tests' site."""

    def __init__(self, urls: list[str], workers: int, *options: str, **environment: str) -> None:
        self.port = free_port()
        self.process = Process(
            *(sys.executable, "-m", "gunicorn", "--worker-class", "gevent"),
            *("--workers", str(workers), "--bind", f"127.0.0.1:{self.port}", *options),
            "tests.site:application",
            measured=True,
            TESTS_MODE="gevent",
            SITE_BROKER=urls[0],
            SITE_RESULTS=urls[1],
            **environment,
        )
        wait_until(self._answers, "gunicorn", timeout=60)

    def url(self, path: str) -> str:
        """The address of *path*."""
        return f"http://127.0.0.1:{self.port}{path}"

    def fetch(self, path: str) -> Any:
        """Ask for *path*; return the answer."""
        return json.loads(self.read(path))

    def read(self, path: str) -> str:
        """Ask for *path*; return the answer as it is."""
        with urllib.request.urlopen(self.url(path), timeout=60) as response:
            answer: bytes = response.read()
            return answer.decode()

    def _answers(self) -> bool:
        assert self.process.popen.poll() is None, self.process.output()
        try:
            return bool(self.fetch("/?x=1"))
        except OSError:
            return False


@pytest.fixture
def gunicorn() -> Iterator[Callable[..., Gunicorn]]:
    """Start a gunicorn; see that it ends without complaint."""
    started: list[Gunicorn] = []

    def start(
        urls: list[str], workers: int = 4, options: Iterable[str] = (), **environment: str
    ) -> Gunicorn:
        started.append(Gunicorn(urls, workers, *options, **environment))
        return started[-1]

    yield start
    for one in started:
        one.process.end()
        for complaint in ("Traceback", "Exception ignored", "Warning"):
            assert complaint not in one.process.output()


@pytest.fixture
def make(broker: RedisServer, results: RedisServer) -> Iterator[Callable[..., Celery]]:
    """Make an app on the session's servers, with further settings."""
    made: list[Celery] = []

    def make(**conf: Any) -> Celery:
        settings = {"result_drainer": DRAINER, **conf}
        urls = settings.pop("broker", broker.url()), settings.pop("results", results.url("web"))
        made.append(make_app(*urls, **settings))
        return made[-1]

    yield make
    for app in made:
        if app._backend_cache is not None:
            consumer = app.backend.result_consumer
            consumer.stop()
            if isinstance(consumer, ResultConsumer):
                # What is called beside the loop may be reading now, over a connection of its own.
                consumer.wait_for_calls(time.monotonic() + 20)
            if hasattr(app.backend, "client"):
                app.backend.client.connection_pool.disconnect()
        app.close()
    wait_until(lambda: not results.clients(), "the end of all connections of the test")


@pytest.fixture(scope="module")
def memory_app() -> Iterator[Celery]:
    """An app whose broker and worker are in this process."""
    app = make_app(
        "memory://",
        "rpc://",
        result_drainer=DRAINER,
        task_track_started=True,
        broker_transport_options={"polling_interval": 0.01},
    )
    options = {"pool": "threads", "concurrency": 16, "loglevel": "WARNING"}
    with start_worker(app, perform_ping_check=False, **options):
        yield app
        app.backend.result_consumer.stop()


@pytest.fixture(scope="module")
def redis_rpc_app(broker: RedisServer) -> Iterator[Celery]:
    """An app that gets its results as messages of Redis. It lasts, as it takes a second to stop."""
    app = make_app(broker.url(database=12), "rpc://", result_drainer=DRAINER)
    worker = Worker(broker.url(database=12), "rpc://")
    yield app
    app.backend.result_consumer.stop()
    worker.end()


@pytest.fixture
def connect(request: pytest.FixtureRequest, make: Callable[..., Celery]) -> Callable[..., Celery]:
    """Make an app of a kind of results, with a worker for it: one of :data:`KINDS`."""

    def connect(kind: str, **conf: Any) -> Celery:
        if kind in SHARED:
            app: Celery = request.getfixturevalue(SHARED[kind])
            return app
        if kind == "rpc, rabbitmq":
            request.getfixturevalue("rabbit_worker")
            conf.update(broker=request.getfixturevalue("rabbit").url(), results="rpc://")
        else:
            request.getfixturevalue("worker")
        return make(**conf)

    return connect


@pytest.fixture
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings of which none was said so far."""
    monkeypatch.setattr(notices, "_said", mmap.mmap(-1, notices.SIZE))


@pytest.fixture
def app(request: pytest.FixtureRequest, connect: Callable[..., Celery]) -> Celery:
    """An app that gets its results from Redis, or as the test's mark asks."""
    kind = getattr(request, "param", None)
    return connect(kind) if kind else request.getfixturevalue("make")()


@pytest.fixture
def store(app: Celery) -> Callable[..., str]:
    """Store a result, as a worker does; return its task id."""
    return storing(app)


def storing(app: Celery, by: Celery | None = None) -> Callable[..., str]:
    """Return that function for the results of *app*, which *by* stores, or *app* itself."""

    def store(value: Any = 42, state: str = "SUCCESS", task_id: str | None = None) -> str:
        task_id = task_id or uuid()
        request = Context(reply_to=getattr(app.backend, "oid", None), correlation_id=task_id)
        if request.reply_to:
            # The worker's task was sent, and the queue for its result made.
            with app.producer_or_acquire() as producer:
                app.backend.on_task_call(producer, task_id)
        (by or app).backend.store_result(task_id, value, state, request=request)
        return task_id

    return store
