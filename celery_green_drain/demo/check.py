"""The demo without a browser: many requests at once, each answer checked, connections counted."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from .processes import Children, DemoError
from .servers import OPENER, Site

__all__ = ("check",)

REQUESTS = 200
AT_ONCE = 50

#: Tasks in one stream, and the seconds that each takes.
STREAMED = 10
WORK = 0.01

#: Seconds for all of it.
DEADLINE = 120.0

#: Connections to the results that the drainer of one process may hold.
MOST_CONNECTIONS = 2


@dataclass(frozen=True)
class Answer:
    """What one request brought."""

    pid: int
    results: int
    #: How long ``get()`` took, in seconds; None: it was another request.
    latency: float | None = None
    #: Seconds from the end of a task to here, of those that succeeded.
    ways: tuple[float, ...] = ()


class Connections:
    """The connections that the web processes have had to the results' database."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.all: set[str] = set()
        self.pubsub: set[str] = set()

    def look(self, server: Any) -> None:
        """Count those that are there now, in this Redis."""
        site = self._site
        database = str(server.connection_pool.connection_kwargs.get("db", 0))
        for client in server.client_list():
            if client["name"] == site.client_name and client["db"] == database:
                self.all.add(client["id"])
                # Between two results there is nothing to be subscribed to.
                if client["sub"] != "0" or client["cmd"] in ("subscribe", "unsubscribe"):
                    self.pubsub.add(client["id"])


@dataclass
class Report:
    """What all of them brought."""

    answers: list[Answer] = field(default_factory=list)
    #: What was wrong with those that are not among the answers.
    wrong: list[str] = field(default_factory=list)
    #: None: the broker's are not counted, beyond what each process says of its own.
    connections: Connections | None = None

    @property
    def processes(self) -> set[int]:
        return {answer.pid for answer in self.answers if answer.results}


def check(children: Children, site: Site) -> int:
    """Run it, print what came of it, and return the exit code."""
    report = Report()
    executor = ThreadPoolExecutor(AT_ONCE)
    try:
        with _looking(site, report) as look:
            _send_all(children, site.url, executor, look, report)
    finally:
        # Not waited for: they end with the web server, if not before.
        executor.shutdown(wait=False, cancel_futures=True)
    _print(report)
    faults = list(_faults(report))
    for fault in faults:
        print(f"check: {fault}", file=sys.stderr)
    return 1 if faults else 0


@contextmanager
def _looking(site: Site, report: Report) -> Iterator[Callable[[], object]]:
    """Have the connections counted, each time that it is called."""
    if site.results is None:
        yield lambda: None
        return
    import redis

    connections = report.connections = Connections(site)
    try:
        with redis.Redis.from_url(site.results) as server:
            yield lambda: connections.look(server)
    except redis.RedisError as exc:
        raise DemoError(f"The connections cannot be counted: {exc}") from exc


def _send_all(
    children: Children,
    url: str,
    executor: ThreadPoolExecutor,
    look: Callable[[], object],
    report: Report,
) -> None:
    kinds = (_get, _stream, _get, _statistics)
    pending: set[Future[Answer]] = {
        executor.submit(kinds[number % len(kinds)], url, number) for number in range(REQUESTS)
    }
    deadline = time.monotonic() + DEADLINE
    while pending:
        done, pending = wait(pending, timeout=0.02)
        look()
        children.check()
        for future in done:
            _note(future, report)
        if time.monotonic() > deadline:
            raise DemoError(f"{len(pending)} requests are not answered after {DEADLINE:g} s.")


def _note(future: Future[Answer], report: Report) -> None:
    try:
        report.answers.append(future.result())
    except Exception as exc:
        report.wrong.append(f"{type(exc).__name__}: {exc}")


# -- the requests


def _get(url: str, number: int) -> Answer:
    """The result in the answer itself."""
    began = time.monotonic()
    (answer,) = _ask(url, "/add", json.loads, x=number, y=1000 * number)
    latency = time.monotonic() - began
    _expect(answer["sum"], 1001 * number)
    return Answer(answer["pid"], 1, latency)


def _stream(url: str, number: int) -> Answer:
    """States pushed as they come; of each ten tasks one fails."""
    lines = _ask(url, "/squares", bytes.strip, tasks=STREAMED, seconds=WORK, failing="on")
    events = list(_events(lines))
    (*_, last) = events
    _expect((last[0], last[1]["done"]), ("end", STREAMED))
    states = [data for event, data in events if event in ("state", "end")]
    ends = {data["number"]: _outcome(data) for data in states if data["status"] != "PROGRESS"}
    _expect(ends, {number: _squared(number) for number in range(1, STREAMED + 1)})
    pid = next(data["pid"] for event, data in events if event == "figures")
    ways = tuple(data["seconds"] for data in states if data["status"] == "SUCCESS")
    return Answer(pid, len(ends), ways=ways)


def _outcome(data: dict[str, Any]) -> tuple[str, Any]:
    status, result = data["status"], data["result"]
    return status, result["square"] if status == "SUCCESS" else result["message"]


def _squared(number: int) -> tuple[str, Any]:
    if number % 10 == 0:
        return "FAILURE", f"{number} was asked to fail"
    return "SUCCESS", number * number


def _statistics(url: str, number: int) -> Answer:
    """Figures of a process, whichever answers."""
    (figures,) = _ask(url, "/statistics", json.loads)
    if figures["drainer"] not in (None, "GeventDrainer"):  # None: nothing was waited for yet
        raise ValueError(f"process {figures['pid']} has a {figures['drainer']}")
    if figures["connections"] > MOST_CONNECTIONS:
        raise ValueError(f"process {figures['pid']} has {figures['connections']} connections")
    return Answer(figures["pid"], 0)


def _ask(url: str, path: str, read: Callable[[bytes], Any], **query: Any) -> Iterator[Any]:
    """Yield what *read* makes of each line of the answer."""
    with OPENER.open(f"{url}{path}?{urlencode(query)}", timeout=DEADLINE) as response:
        yield from map(read, response)


def _events(lines: Iterator[bytes]) -> Iterator[tuple[str, Any]]:
    """The Server-Sent Events of an answer, with their data."""
    event = ""
    for line in lines:
        name, _, value = line.decode().partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)


def _expect(given: Any, expected: Any) -> None:
    if given != expected:
        raise ValueError(f"{given!r} instead of {expected!r}")


# -- the report


def _print(report: Report) -> None:
    results = sum(answer.results for answer in report.answers)
    latencies = sorted(answer.latency for answer in report.answers if answer.latency is not None)
    ways = sorted(way for answer in report.answers for way in answer.ways)
    rows: list[tuple[str, object]] = [
        ("requests", len(report.answers) + len(report.wrong)),
        ("results", results),
        ("wrong answers", len(report.wrong)),
        ("web processes", len(report.processes)),
        *_counted(report.connections),
        ("get() under this load, p50", _milliseconds(latencies, 0.5)),
        ("get() under this load, p95", _milliseconds(latencies, 0.95)),
        ("get() under this load, max", _milliseconds(latencies, 1)),
        ("from the worker to here, p50", _milliseconds(ways, 0.5)),
        ("from the worker to here, p95", _milliseconds(ways, 0.95)),
    ]
    for name, value in rows:
        print(f"{name:<29}{value!s:>10}")
    if ways and latencies and 2 * ways[len(ways) // 2] < latencies[len(latencies) // 2]:
        print("Most of get() is the wait for the worker, which runs few tasks at once.")


def _counted(connections: Connections | None) -> list[tuple[str, object]]:
    if connections is None:
        return []
    return [
        ("result connections in all", len(connections.all)),
        ("pub/sub connections", len(connections.pubsub)),
    ]


def _milliseconds(ordered: list[float], part: float) -> str:
    """The least of *ordered* that *part* of all do not exceed."""
    if not ordered:
        return "-"
    return f"{1000 * ordered[math.ceil(part * len(ordered)) - 1]:.1f} ms"


def _faults(report: Report) -> Iterator[str]:
    """What the demo promises, and what was not so."""
    processes, connections = len(report.processes), report.connections
    if report.wrong:
        yield f"{len(report.wrong)} answers are wrong, the first: {report.wrong[0]}"
    if connections is None:
        return
    if len(connections.all) > MOST_CONNECTIONS * processes:
        yield f"{len(connections.all)} result connections for {processes} web processes"
    if len(connections.pubsub) != processes:
        yield f"{len(connections.pubsub)} pub/sub connections for {processes} web processes"
