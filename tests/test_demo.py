"""The demo, as the README says to run it."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request

import pytest

from .green import GREEN
from .rabbitmq import RabbitServer
from .servers import DEMO, RedisServer, site

pytestmark = pytest.mark.skipif(
    GREEN, reason="the demo is a process of its own, whatever has patched this one"
)


def test_check() -> None:
    check()


def test_check_rpc_preloaded(rabbit: RabbitServer) -> None:
    check("--backend", "rpc", "--broker", rabbit.url(), "--preload")


def test_check_rpc_over_redis() -> None:
    check("--backend", "rpc")


def check(*options: str) -> None:
    command = [*DEMO, "--check", "--workers", "2", *options]
    demo = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert re.search(r"wrong answers +0\n", demo.stdout)
    assert "Traceback" not in demo.stdout + demo.stderr


def test_page_and_ctrl_c(broker: RedisServer) -> None:
    with site(*DEMO, "--redis", broker.url(database=8), measured=True) as address:
        with urllib.request.urlopen(f"{address}/", timeout=30) as response:
            assert b"<html" in response.read()
        with urllib.request.urlopen(f"{address}/add?x=2&y=3", timeout=30) as response:
            assert 5 in json.load(response).values()
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(f"{address}/add?x=two&y=3", timeout=30)
        with pytest.raises(urllib.error.HTTPError, match="409"):  # that Redis is not the demo's
            urllib.request.urlopen(f"{address}/restart", b"", timeout=30)


def test_wrong_redis() -> None:
    demo = subprocess.run(
        [*DEMO, "--redis", "redis://127.0.0.1:1/0"], capture_output=True, text=True, timeout=60
    )
    assert demo.returncode == 1
    assert "127.0.0.1:1" in demo.stdout + demo.stderr
    assert "Traceback" not in demo.stdout + demo.stderr


def test_wrong_broker() -> None:
    demo = subprocess.run(
        [*DEMO, "--backend", "rpc", "--broker", "amqp://127.0.0.1:1//"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert demo.returncode == 1
    assert "The broker cannot be used" in demo.stderr
    assert "Traceback" not in demo.stdout + demo.stderr
