"""Several processes: forks, and a real gunicorn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from .conftest import Gunicorn, in_gunicorn
from .green import MODE, wait_until
from .program import run, run_fine
from .rabbitmq import RabbitServer
from .servers import RedisServer


def test_fork(broker: RedisServer, results: RedisServer) -> None:
    run_fine("forking", broker.url(), results.url("web"))


def test_fork_rpc(rabbit: RabbitServer, rabbit_worker: object) -> None:
    before = rabbit.queues()
    run_fine("forking_rpc", rabbit.url())
    assert rabbit.queues() == before


def test_the_end_of_the_interpreter_is_silent(broker: RedisServer, results: RedisServer) -> None:
    """With a loop that runs, waits and callbacks that are pending."""
    script = run("end", broker.url(), results.url(), "0")
    assert (script.returncode, script.stdout) == (0, "")
    assert script.stderr.count("\n") == 1
    assert "10 results that callbacks wait for" in script.stderr


@pytest.mark.skipif(MODE != "eventlet", reason="the others' native threads have no hub")
def test_the_end_waits_for_native_threads() -> None:
    """The interpreter may crash where it goes while one has a hub."""
    script = run("end_in_a_call")
    assert (script.returncode, script.stdout, script.stderr) == (0, "over\n", "")


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
    script = run("end_of_callbacks", *urls, wait)
    printed, told = LATES[wait]
    assert script.returncode == 0
    assert script.stdout.split("\n")[:-1] == printed, script.stderr
    assert script.stderr.count("\n") == 1
    assert told in script.stderr


def test_the_end_does_not_wait_for_a_callback_that_never_ends(
    broker: RedisServer, results: RedisServer, worker: object
) -> None:
    script = run("end_in_a_callback", broker.url(), results.url())
    assert script.returncode == 0
    assert script.stderr == "The process ends in the middle of callbacks.\n"


def test_the_end_of_children_of_multiprocessing(
    broker: RedisServer, results: RedisServer, worker: object
) -> None:
    """They call nothing of ``atexit``."""
    script = run("multiprocessing_children", broker.url(), results.url())
    assert (script.returncode, script.stderr) == (0, "")
    assert script.stdout == "fork\nspawn\nforkserver\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGQUIT"])
def test_an_interrupted_end_gives_up_at_once(
    name: str, broker: RedisServer, results: RedisServer
) -> None:
    """As with a second Ctrl-C, or where gunicorn is told to quit twice."""
    begun = time.monotonic()
    script = run("end_interrupted", broker.url(), results.url(), name)
    assert time.monotonic() - begun < 40
    assert script.stdout == "ResultNeverCame\n", script.stderr
    assert "1 results that callbacks wait for" in script.stderr


def test_the_end_of_the_interpreter_deletes_the_queue(
    rabbit: RabbitServer, rabbit_worker: object
) -> None:
    script = run("end_rpc", rabbit.url())
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
        answers = list(pool.map(lambda x: site.fetch(f"/?x={x}"), range(300)))
    assert [answer["value"] for answer in answers] == [x + 1 for x in range(300)]
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
