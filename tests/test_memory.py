"""What a process keeps of the results that have passed through it: nothing, after some time."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable

import pytest
from celery import Celery, uuid

from .green import MODE, wait_until
from .servers import UNMEASURED, RedisServer


@pytest.mark.parametrize("backend", ["redis", "rpc"])
def test_results_that_come_and_go(backend: str) -> None:
    """In a process that coverage does not follow, as that keeps something of each greenlet."""
    command = [sys.executable, "-m", "tests.memory", "--backend", backend, "--mode", MODE]
    # After the first tenth each buffer is full.
    command += ["--results", "10000", "--buffer", "100"]
    memory = subprocess.run(command, env=UNMEASURED, capture_output=True, text=True, timeout=100)
    assert memory.returncode == 0, memory.stdout + memory.stderr


def test_waits_that_end_without_a_result(make: Callable[..., Celery], results: RedisServer) -> None:
    """Timeouts, results dropped with their callbacks, and callbacks that were forgotten."""
    app = make()
    consumer = app.backend.result_consumer

    def begin_and_end() -> None:
        for _ in range(500):
            app.AsyncResult(uuid()).then(print, weak=True)
            kept = app.AsyncResult(uuid())
            kept.then(print)
            app.backend.remove_pending_result(kept)
        with pytest.raises(Exception, match="timed out"):
            app.AsyncResult(uuid()).get(timeout=0.01)
        wait_until(lambda: consumer.statistics().pending == 0, "the end of all")
        wait_until(lambda: not len(consumer.mailbox), "the notes")
        wait_until(lambda: not results.subscriptions(), "the end of the subscriptions")

    def blocks() -> int:
        gc.collect()
        return sys.getallocatedblocks()

    for _ in range(3):
        begin_and_end()
    before = blocks()
    for _ in range(5):
        begin_and_end()
    assert blocks() - before < 500
    assert not consumer.table.calls
