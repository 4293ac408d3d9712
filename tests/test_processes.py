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
wait = float(sys.argv[4])
app = make_app(*sys.argv[2:4], result_drainer=sys.argv[5], result_drainer_exit_timeout=wait)
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
    script = run_exit(EXIT, broker.url(), results.url(), "0")
    assert (script.returncode, script.stdout) == (0, "")
    assert script.stderr.count("\n") == 1
    assert "10 results that callbacks wait for" in script.stderr


LATE = """
import atexit, sys, time
from tests.launch import patch
mode, broker, results, wait, drainer = sys.argv[1:]
patch(mode)
from celery import uuid
from tests.green import wait_until
from tests.tasks import make_app
app = make_app(broker, results, result_drainer=drainer, result_drainer_exit_timeout=float(wait))

def on_error(error):
    time.sleep(0.1)
    print(type(error).__name__, flush=True)

coming, never = app.tasks["nap"].delay(1, "came"), app.AsyncResult(uuid())
for result in (coming, never):
    result.then(lambda result: print(result.get(), flush=True), on_error)
coming.then(lambda result: (time.sleep(0.3), print("slowly", flush=True)))
never.then(lambda result: print("must not be called", flush=True))
wait_until(lambda: app.backend.result_consumer.statistics().pending == 2, "the callbacks")
atexit.register(lambda: print("before", app.tasks["add"].delay(1, 2).get(timeout=20), flush=True))
"""

#: With these settings, what is printed, and how long the end takes at least.
LATES = {
    "3": (["before 3", "came", "slowly", "ResultNeverCame"], "1 results"),
    "0": (["before 3", "ResultNeverCame", "ResultNeverCame"], "2 results"),
}


@pytest.mark.parametrize("wait", LATES)
@pytest.mark.parametrize("kind", ["redis", "rpc, rabbitmq"])
def test_the_end_waits_for_callbacks(request: pytest.FixtureRequest, kind: str, wait: str) -> None:
    """For a time; then those are told whose result has not come. Who waits in get() goes first."""
    if kind == "redis":
        request.getfixturevalue("worker")
        urls = [request.getfixturevalue(name).url() for name in ("broker", "results")]
    else:
        request.getfixturevalue("rabbit_worker")
        urls = [request.getfixturevalue("rabbit").url(), "rpc://"]
    script = run_exit(LATE, *urls, wait)
    printed, told = LATES[wait]
    assert script.returncode == 0
    assert script.stdout.split("\n")[:-1] == printed, script.stderr
    assert script.stderr.count("\n") == 1
    assert told in script.stderr


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
    assert script.returncode == 0
    assert script.stderr.count("\n") == 1
    assert "10 results that callbacks wait for" in script.stderr
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
def test_callbacks_of_requests_that_were_answered(
    gunicorn: Callable[..., Gunicorn],
    broker: RedisServer,
    results: RedisServer,
    worker: object,
) -> None:
    """SIGTERM comes while their results are on the way."""
    site = gunicorn([broker.url(), results.url("site")], workers=2)
    for x in range(6):
        site.fetch(f"/later?x={x}&nap=0.5")
    site.process.end()
    output = site.process.output()
    assert sorted(line for line in output.splitlines() if line.startswith("later:")) == [
        f"later: {x + 1}" for x in range(6)
    ]
    assert "never:" not in output


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
