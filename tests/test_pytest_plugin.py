"""The fixtures for users' own tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .green import MODE
from .servers import UNMEASURED

CONFTEST = """
import pytest
from celery import shared_task

pytest_plugins = ["celery_green_drain.pytest"]

@shared_task
def add(x, y):
    return x + y

@pytest.fixture
def green_drain_config():
    return {"task_default_queue": "mine", "broker_transport_options": {"polling_interval": 0.02}}

@pytest.fixture
def app(green_drain_app, green_drain_worker):
    return green_drain_app
"""

TESTS = """
import time

def add(app):
    assert app.conf.task_default_queue == "mine"
    assert app.conf.broker_transport_options == {"polling_interval": 0.02}
    return app.tasks["conftest.add"].delay(2, 3)

def test_get(app):
    assert add(app).get(timeout=30) == 5

def test_a_callback(app):
    add(app).then(lambda result: time.sleep(0.2))

def test_a_callback_that_raises(app):
    add(app).then(lambda result: 1 / 0)

def test_without_a_worker(green_drain_app):
    assert green_drain_app.backend.is_async
"""


def test_the_fixtures(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_shop.py").write_text(TESTS)
    process = subprocess.run(
        [sys.executable, "-m", "tests.launch", MODE, "-q", "--rootdir", str(tmp_path), tmp_path],
        cwd=Path(__file__).parent.parent,
        env=UNMEASURED,
        capture_output=True,
        text=True,
        timeout=120,
    )
    output = process.stdout
    assert "4 passed, 1 error" in output, output + process.stderr
    assert "A callback of task" in output
    assert "has raised ZeroDivisionError" in output
