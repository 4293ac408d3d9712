"""``green-drain top``: the figures of running web processes, over HTTP, again and again."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ("Top",)

#: Seconds for an answer.
PATIENCE = 5.0

#: Rounds after which a process that has not answered is left out.
FORGET = 10

#: The columns, and how wide each is.
COLUMNS = {
    "PID": 7,
    "PENDING": 8,
    "OLDEST": 8,
    "CALLBACKS": 10,
    "RESULTS/S": 10,
    "FAILURES": 9,
    "TIMEOUTS": 9,
    "LAG P99": 8,
    "CONNECTIONS": 12,
}


class Top:
    """What the processes behind one address have told.

    :param url: where they serve their report, as ``wsgi_report()`` does.
    :param asks: requests in a round, as each is answered by any one of the processes.
    """

    def __init__(self, url: str, asks: int = 4) -> None:
        self._url = url
        self._asks = asks
        self._round = 0
        #: By the process: in which round it answered last, and its last two reports.
        self._seen: dict[int, tuple[int, dict[str, Any], dict[str, Any]]] = {}

    def ask(self) -> None:
        """Ask for a round of reports.

        :raises OSError: where nobody answers.
        :raises ValueError: where what comes is no report.
        """
        self._round += 1
        for _ in range(self._asks):
            request = urllib.request.Request(self._url, headers={"Accept": "application/json"})
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                report = json.load(response)
            if not isinstance(report, dict) or "statistics" not in report:
                raise ValueError(f"{self._url} serves no report of celery_green_drain.")
            pid = report["process"]["pid"]
            at, before, last = self._seen.get(pid, (0, report, report))
            self._seen[pid] = self._round, (last if at < self._round else before), report
        for pid, (at, _, _) in list(self._seen.items()):
            if at <= self._round - FORGET:
                del self._seen[pid]

    def lines(self) -> Iterator[str]:
        """The figures as a table: a line for each process."""
        yield _line(COLUMNS)
        for pid, (_, before, last) in sorted(self._seen.items()):
            yield _line([str(pid), *_cells(before, last)])


def _line(cells: Iterable[str]) -> str:
    return " ".join(cell.rjust(width) for cell, width in zip(cells, COLUMNS.values()))


def _cells(before: dict[str, Any], last: dict[str, Any]) -> Iterator[str]:
    figures = last["statistics"]
    seconds = last["process"]["at"] - before["process"]["at"]
    results = figures["delivered"] - before["statistics"]["delivered"]
    yield str(figures["pending"])
    yield _seconds(figures["oldest"])
    yield str(figures["callbacks_running"])
    yield f"{results / seconds if seconds else 0:.1f}"
    yield str(figures["failures"])
    yield str(figures["timeouts"])
    yield _seconds(figures["lag_p99"])
    yield "lost" if figures["lost_at"] is not None else str(figures["connections"])


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g} s"
