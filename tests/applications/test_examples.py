"""The examples, as their READMEs say to run them."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import socketio

from ..green import wait_until
from ..servers import Process, site
from ..sse_client import Event, EventSource

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
READMES = sorted(EXAMPLES.glob("*/README.md"))
RUN = (sys.executable, str(EXAMPLES / "run.py"))


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of the example of that name."""
    with site(*RUN, request.param) as address:
        yield address


def fetch(url: str, data: bytes | None = None) -> Any:
    with urllib.request.urlopen(url, data, timeout=30) as response:
        text = response.read().decode()
        return json.loads(text) if "json" in response.headers["Content-Type"] else text


def check_progress(events: list[Event], step: str) -> None:
    *states, end = events
    numbers = [event.json["result"][step] for event in states]
    assert len(numbers) > 3
    assert numbers == sorted(set(numbers))
    assert (end.name, end.json["status"]) == ("end", "SUCCESS")


@pytest.mark.parametrize("url", ["flask_progress"], indirect=True)
def test_flask_progress(url: str) -> None:
    assert "<progress" in fetch(url)
    assert fetch(f"{url}/add?x=4&y=5") == {"sum": 9}
    task_id = fetch(f"{url}/tasks", b"pages=6")["id"]
    events = list(EventSource(f"{url}/tasks/{task_id}/events"))
    check_progress(events, "page")
    assert events[-1].json["result"] == "6 pages are done."


@pytest.mark.parametrize("url", ["django_results"], indirect=True)
def test_django_results(url: str) -> None:
    assert "history" in fetch(url)
    assert fetch(f"{url}/total?x=4&y=5") == {"total": 9}
    good, bad = fetch(f"{url}/start?boxes=6"), fetch(f"{url}/start?boxes=0")
    check_progress(list(EventSource(f"{url}/{good['events']}")), "box")
    failure = list(EventSource(f"{url}/{bad['events']}"))[-1].json
    assert (failure["status"], failure["result"]["type"]) == ("FAILURE", "ValueError")

    def kept() -> dict[str, str]:
        return {task["task_id"]: task["status"] for task in fetch(f"{url}/history")["tasks"]}

    wait_until(lambda: len(kept()) == 2, "what the callbacks keep")
    assert kept() == {good["id"]: "SUCCESS", bad["id"]: "FAILURE"}


class Browser:
    """A client of Socket.IO in a room."""

    def __init__(self, url: str, room: str, transport: str) -> None:
        self.seen: list[dict[str, Any]] = []
        self.over = threading.Event()
        self.client = socketio.Client()
        self.client.on("state", self._state)
        self.client.connect(url, transports=[transport])
        self.client.call("join", room, timeout=20)

    def _state(self, state: dict[str, Any]) -> None:
        self.seen.append(state)
        if state["last"]:
            self.over.set()


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize(
    ("url", "drainer"),
    [("flask_socketio", "GeventDrainer"), ("flask_socketio_eventlet", "EventletDrainer")],
    indirect=["url"],
)
def test_flask_socketio(url: str, drainer: str, transport: str) -> None:
    assert "socket.io" in fetch(url)
    asking, watching = Browser(url, "one", transport), Browser(url, "one", transport)
    elsewhere = Browser(url, "two", transport)
    task_id = asking.client.call("render", ("one", 6), timeout=20)
    for browser in (asking, watching):
        assert browser.over.wait(30)
        assert {state["id"] for state in browser.seen} == {task_id}
        *states, end = browser.seen
        numbers = [state["result"]["page"] for state in states]
        assert len(numbers) > 3
        assert numbers == sorted(set(numbers))
        assert end["result"] == "6 pages are done."
    assert elsewhere.seen == []
    figures = fetch(f"{url}/statistics")
    assert (figures["drainer"], figures["connections"]) == (drainer, 1)
    for browser in (asking, watching, elsewhere):
        browser.client.disconnect()


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = Process(*RUN, "flask_progress", "--port", port)
        wait_until(lambda: process.popen.poll() is not None, "its end")
    assert process.popen.returncode == 1
    assert f"port {port}" in process.output()
    assert "Traceback" not in process.output()


@pytest.mark.parametrize("readme", READMES, ids=lambda p: p.parent.name)
def test_the_command_of_its_readme(readme: Path) -> None:
    names = re.findall(r"scripts/example (\w+)", readme.read_text())
    process = Process(*RUN, "--help")
    wait_until(lambda: process.popen.poll() is not None, "its end")
    assert names
    assert all(re.search(rf"\b{name}\b", process.output()) for name in names)
