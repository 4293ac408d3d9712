"""A short run of the model test, in this mode; and whether it would tell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
from celery import Celery

from .green import MODE, spawn, wait_until
from .model.runner import Gate
from .servers import UNMEASURED


@pytest.mark.parametrize("backend", ["redis", "rpc"])
def test_each_wait_ends_as_it_should(backend: str) -> None:
    command = [sys.executable, "-m", "tests.model", "--mode", MODE, "--backend", backend]
    command += ["--minutes", "0.2"]
    model = subprocess.run(command, env=UNMEASURED, capture_output=True, text=True, timeout=300)
    print(model.stdout)
    assert model.returncode == 0, model.stdout + model.stderr


@pytest.mark.skipif(MODE != "unpatched", reason="it is about what native threads have locked")
def test_a_child_that_is_forked_in_the_middle_goes_on() -> None:
    """The lock of the model's gate may be another thread's in that moment."""
    gate, held, over = Gate(), threading.Event(), threading.Event()

    def pass_by() -> None:
        with gate._condition:
            held.set()
            over.wait(10)

    with gate.closed():
        spawn(pass_by)
        assert held.wait(10)
        pid = os.fork()
        if pid:
            over.set()
    if pid == 0:
        os._exit(0)
    try:
        wait_until(lambda: os.waitpid(pid, os.WNOHANG) != (0, 0), "the end of the child", 5)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def test_a_stranger_at_the_table(app: Celery, strangers: list[str]) -> None:
    """Whether the suite would notice that somebody else than a drain loop changes its table."""
    app.backend.result_consumer.table.doubt()
    (found,) = strangers
    assert "test_a_stranger_at_the_table" in found
    strangers.clear()
