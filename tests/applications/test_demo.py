"""The demo, as the README says to run it."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from celery_green_drain.demo.check import MOST_CONNECTIONS

from ..rabbitmq import RabbitServer
from ..servers import DEMO, RedisServer, site
from ..sse_client import EventSource


def test_check() -> None:
    check()


def test_check_rpc_preloaded(rabbit: RabbitServer) -> None:
    check("--backend", "rpc", "--broker", rabbit.url(), "--preload")


def check(*options: str) -> None:
    command = [*DEMO, "--check", "--workers", "2", *options]
    demo = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert re.search(r"wrong answers +0\n", demo.stdout)
    assert re.search(r"from the worker to here, p50 +\d+\.\d ms\n", demo.stdout)
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


def test_compared_with_plain_celery() -> None:
    """Each request of plain Celery has a drain loop and connections, and all of ours share one."""
    with site(*DEMO, "--compare", measured=True) as address:
        ends = {path: end_of(f"{address}/compare/{path}?tasks=12") for path in ("stock", "run")}
        assert b"result_drainer" in urllib.request.urlopen(f"{address}/compare").read()
        code = urllib.request.urlopen(f"{address}/code/add").read()
    assert b"add.delay(x, y).get(timeout=PATIENCE)" in code
    assert [(end["ended"], end["failed"]) for end in ends.values()] == [(12, 0)] * 2
    assert ends["stock"]["loops"] >= 12
    assert ends["stock"]["connections"] >= 12
    assert ends["run"]["loops"] == 1
    assert ends["run"]["connections"] <= MOST_CONNECTIONS


def end_of(url: str) -> dict[str, Any]:
    (*_, end) = EventSource(url)
    assert end.name == "end"
    return dict(end.json)


def test_a_comparison_that_counts_nothing() -> None:
    demo = subprocess.run(
        [*DEMO, "--compare", "--backend", "rpc"], capture_output=True, text=True, timeout=60
    )
    assert demo.returncode == 2
    assert "--compare counts connections to a Redis" in demo.stderr


def test_neighbours_and_other_sites_are_kept_out() -> None:
    with site(*DEMO, measured=True) as address:
        check_neighbours()

        def status(path: str, method: str = "GET", **headers: str) -> int:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            request = urllib.request.Request(f"{address}{path}", None, names, method=method)
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    return int(response.status)
            except urllib.error.HTTPError as exc:
                return exc.code

        port = address.rpartition(":")[2]
        assert status("/", Sec_Fetch_Site="cross-site") == 200  # a link to it
        assert status("/add?x=1&y=2") == 200  # by hand
        assert status("/add?x=1&y=2", Sec_Fetch_Site="same-origin", Origin=address) == 200
        assert status("/statistics", Host=f"localhost:{port}") == 200
        assert status("/restart", "POST", Origin="http://evil.example") == 403
        assert status("/restart", "POST", Sec_Fetch_Site="same-site") == 403
        assert status("/squares?tasks=1", Sec_Fetch_Site="cross-site") == 403
        assert status("/squares?tasks=1", Referer="http://evil.example/") == 403
        assert status("/statistics", Host="evil.example") == 403
        assert status("/statistics", Origin="http://[") == 403
        assert status("/", Host=f"evil.example:{port}") == 403


def check_neighbours() -> None:
    """What any user of this machine may see of the demo's servers does not let him in."""
    ports = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes().decode()
            parent = re.search(r"PPid:\s+(\d+)", (process / "status").read_text())
            found = re.match(r"\S*(?:redis|valkey)-server 127\.0\.0\.1:(\d+)", command)
            if found and parent and is_demo(parent[1]):
                ports.append(int(found[1]))
    assert len(ports) == 2
    for port in ports:
        with pytest.raises(redis.AuthenticationError), redis.Redis(port=port) as neighbour:
            neighbour.config_set("dir", "/tmp")


def is_demo(pid: str) -> bool:
    return "celery_green_drain.demo" in Path(f"/proc/{pid}/cmdline").read_text()


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
