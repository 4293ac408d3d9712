"""Several processes: forks, and a real gunicorn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from .conftest import Gunicorn, in_gunicorn
from .green import DRAINER, MODE, wait_until
from .rabbitmq import RabbitServer
from .servers import UNMEASURED, RedisServer


def test_fork(broker: RedisServer, results: RedisServer) -> None:
    run_fine("tests.forking", broker.url(), results.url("web"))


def test_fork_rpc(rabbit: RabbitServer, rabbit_worker: object) -> None:
    before = rabbit.queues()
    run_fine("tests.forking_rpc", rabbit.url())
    assert rabbit.queues() == before


def run_exit(script: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run *script* to its end, which is to come within *timeout* seconds."""
    return subprocess.run(
        [sys.executable, "-c", script, MODE, *arguments, DRAINER],
        env=UNMEASURED,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def run_fine(module: str, *arguments: str) -> None:
    script = subprocess.run(
        [sys.executable, "-m", module, MODE, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert script.stdout.strip() == "fine", script.stderr
    assert "Traceback" not in script.stderr
    assert "Exception ignored" not in script.stderr


EXIT = """
import sys
from tests.launch import patch
patch(sys.argv[1])
from celery import uuid
from tests.green import spawn
from tests.tasks import make_app
app = make_app(*sys.argv[2:4], result_drainer=sys.argv[4])
task_id = uuid()
app.backend.store_result(task_id, 1, "SUCCESS")
assert app.AsyncResult(task_id).get(timeout=20) == 1
waiting = [app.AsyncResult(uuid()) for _ in range(10)]
for result in waiting:
    result.then(print)
    spawn(result.get)
"""


def test_the_end_of_the_interpreter_is_silent(broker: RedisServer, results: RedisServer) -> None:
    """With a loop that runs, waits and callbacks that are pending."""
    script = run_exit(EXIT, broker.url(), results.url())
    assert (script.returncode, script.stdout, script.stderr) == (0, "", "")


EXIT_RPC = """
import sys
from tests.launch import patch
patch(sys.argv[1])
from celery import uuid
from tests.green import spawn
from tests.tasks import make_app
app = make_app(sys.argv[2], "rpc://", result_drainer=sys.argv[3])
assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
waiting = [app.AsyncResult(uuid()) for _ in range(10)]
for result in waiting:
    result.then(print)
    spawn(result.get)
print(app.backend.oid)
"""


def test_the_end_of_the_interpreter_deletes_the_queue(
    rabbit: RabbitServer, rabbit_worker: object
) -> None:
    script = run_exit(EXIT_RPC, rabbit.url())
    assert (script.returncode, script.stderr) == (0, "")
    assert rabbit.messages(script.stdout.strip()) is None


@pytest.fixture
def left() -> set[str]:
    """The queues that have to be gone when the site is."""
    return set()


SITES = {
    "redis": ("redis", []),
    "redis, preloaded": ("redis", ["--preload"]),
    "rpc, preloaded": ("rpc", ["--preload"]),
}


@pytest.fixture(params=SITES)
def site(
    request: pytest.FixtureRequest,
    left: set[str],
    broker: RedisServer,
    results: RedisServer,
    gunicorn: Callable[..., Gunicorn],
) -> Iterator[Gunicorn]:
    """A gunicorn with four gevent workers."""
    kind, options = SITES[request.param]
    request.getfixturevalue("worker" if kind == "redis" else "rabbit_worker")
    urls = [broker.url(), results.url("site")]
    if kind == "rpc":
        urls = [request.getfixturevalue("rabbit").url(), "rpc://"]
    one = gunicorn(urls, options=options)
    yield one
    one.process.end()
    for queue in left:
        assert request.getfixturevalue("rabbit").messages(queue) is None
    wait_until(lambda: not results.clients(name="site"), "the end of all its connections")


@in_gunicorn
def test_gunicorn(site: Gunicorn, results: RedisServer, left: set[str]) -> None:
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda x: site.fetch(f"/?x={x}"), range(600)))
    assert [answer["value"] for answer in answers] == [x + 1 for x in range(600)]
    assert all(answer["called"] == answer["value"] for answer in answers)
    processes = {answer["pid"] for answer in answers}
    assert {answer["loops"] for answer in answers} == {1}
    assert {answer["drainer"] for answer in answers} == {"GeventDrainer"}
    queues = {answer["queue"] for answer in answers}
    if queues != {None}:
        assert len(queues) == len(processes)
        left.update(queues)
    assert len(results.clients(name="site")) <= 2 * len(processes) + 8
    wait_until(lambda: not results.subscriptions("site"), "the end of all subscriptions")
