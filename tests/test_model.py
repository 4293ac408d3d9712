"""A short run of the model test, in this mode; and whether it would tell."""

from __future__ import annotations

import subprocess
import sys

import pytest
from celery import Celery

from .green import MODE
from .servers import UNMEASURED


@pytest.mark.parametrize("backend", ["redis", "rpc"])
def test_each_wait_ends_as_it_should(backend: str) -> None:
    command = [sys.executable, "-m", "tests.model", "--mode", MODE, "--backend", backend]
    command += ["--minutes", "0.2"]
    model = subprocess.run(command, env=UNMEASURED, capture_output=True, text=True, timeout=300)
    print(model.stdout)
    assert model.returncode == 0, model.stdout + model.stderr


def test_a_stranger_at_the_table(app: Celery, strangers: list[str]) -> None:
    """Whether the suite would notice that somebody else than a drain loop changes its table."""
    app.backend.result_consumer.table.doubt()
    (found,) = strangers
    assert "test_a_stranger_at_the_table" in found
    strangers.clear()
