"""Several processes: forks, and a real gunicorn."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .green import DRAINER, MODE, wait_until
from .servers import UNMEASURED, Process, RedisServer, free_port


def test_fork(broker: RedisServer, results: RedisServer) -> None:
    script = subprocess.run(
        [sys.executable, "-m", "tests.forking", MODE, broker.url(), results.url("web")],
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
    script = subprocess.run(
        [sys.executable, "-c", EXIT, MODE, broker.url(), results.url(), DRAINER],
        env=UNMEASURED,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (script.returncode, script.stdout, script.stderr) == (0, "", "")


@pytest.fixture(params=[[], ["--preload"]], ids=["", "preload"])
def site(
    request: pytest.FixtureRequest, broker: RedisServer, results: RedisServer, worker: object
) -> Iterator[str]:
    """The address of a gunicorn with four gevent workers."""
    port = free_port()
    process = Process(
        *(sys.executable, "-m", "gunicorn", "--worker-class", "gevent", "--workers", "4"),
        *("--bind", f"127.0.0.1:{port}", *request.param, "tests.site:application"),
        measured=MODE == "gevent",
        SITE_BROKER=broker.url(),
        SITE_RESULTS=results.url("site"),
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.popen.poll() is None, process.output()
        try:
            return bool(fetch(f"{url}/?x=1"))
        except OSError:
            return False

    wait_until(answers, "gunicorn", timeout=60)
    yield url
    process.end()
    assert "Traceback" not in process.output()
    assert "Exception ignored" not in process.output()
    assert "Warning" not in process.output()
    wait_until(lambda: not results.clients(name="site"), "the end of all its connections")


def fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as response:
        return json.load(response)


def test_gunicorn(site: str, results: RedisServer) -> None:
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda x: fetch(f"{site}/?x={x}"), range(600)))
    assert [answer["value"] for answer in answers] == [x + 1 for x in range(600)]
    assert all(answer["called"] == answer["value"] for answer in answers)
    processes = {answer["pid"] for answer in answers}
    assert {answer["loops"] for answer in answers} == {1}
    assert {answer["drainer"] for answer in answers} == {"GeventDrainer"}
    assert len(results.clients(name="site")) <= 2 * len(processes) + 8
    wait_until(lambda: not results.subscriptions("site"), "the end of all subscriptions")
