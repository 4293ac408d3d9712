"""Other libraries in the process."""

from __future__ import annotations

import contextvars
import threading
from pathlib import Path
from typing import Any

import pytest

from celery_green_drain import drainers

from .green import DRAINER, GREEN, wait_until
from .program import run
from .servers import RedisServer

#: As that which a trace or the id of a request is kept in.
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")

Own: Any = drainers.ours(DRAINER)


def test_django_that_is_imported_and_not_configured(
    broker: RedisServer, results: RedisServer, tmp_path: Path
) -> None:
    urls = [results.url(), f"db+sqlite:///{tmp_path}/results.sqlite3"]
    script = run("django_unconfigured", broker.url(), *urls)
    assert (script.returncode, script.stdout, script.stderr) == (0, "fine\n", "")


@pytest.mark.parametrize("native", [True, False])
def test_a_call_to_a_store_is_made_in_the_context_of_its_caller(native: bool) -> None:
    call = drainers.fitting().lanes(2, native)
    token = request_id.set("42")
    try:
        assert call(request_id.get) == "42"
    finally:
        request_id.reset(token)
    assert call(request_id.get) == "none"


class Looking:
    """Something to drain that looks whose context it is in."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.drainer = Own(self)

    def drain_events(self, timeout: float | None = None) -> None:
        self.seen.add(request_id.get())
        self.drainer.sleep(0.01)


def test_the_loop_is_not_in_the_context_of_the_first_request() -> None:
    looking = Looking()
    token = request_id.set("42")
    try:
        looking.drainer.start()
    finally:
        request_id.reset(token)
    wait_until(lambda: looking.seen, "a turn")
    looking.drainer.stop()
    assert looking.seen == {"none"}


def test_the_loop_where_threads_inherit_their_context() -> None:
    script = run("instrumented")
    assert (script.returncode, script.stdout, script.stderr) == (0, "none\n", "")


@pytest.mark.skipif(GREEN, reason="greenlets have no names")
def test_threads_say_what_they_are() -> None:
    looking = Looking()
    looking.drainer.start()
    assert "celery_green_drain ThreadDrainer.run" in [
        thread.name for thread in threading.enumerate()
    ]
    done = threading.Event()
    looking.drainer.call(lambda: done.wait(20))
    names = [thread.name for thread in threading.enumerate()]
    done.set()
    looking.drainer.stop()
    assert sum(name.startswith("celery_green_drain ") for name in names) >= 2
