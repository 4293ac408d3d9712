"""Who waits for what, and who got what: written by each web process, added up in the end.

A process appends a line for each event to a file of its own, so that what it has written
outlives it, however it ends.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from celery import uuid

#: Seconds after which a result is missing.
PATIENCE = 120


class Book:
    """One process's file."""

    def __init__(self, folder: str, name: str) -> None:
        path = Path(folder, f"{name} {os.getpid()}.jsonl")
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def _write(self, *event: object) -> None:
        os.write(self._file, f"{json.dumps(event)}\n".encode())

    def sent(self, task_id: str) -> None:
        """The broker has taken a task."""
        self._write("sent", task_id)

    def waits(self, task_id: str, value: object) -> str:
        """Somebody waits for *task_id*, which is to bring *value*. Return a name for the waiter."""
        waiter: str = uuid()
        self._write("waits", waiter, task_id, value, time.monotonic())
        return waiter

    def got(self, waiter: str, value: object) -> None:
        """*waiter* was handed *value*."""
        self._write("got", waiter, value, time.monotonic())

    def kills(self, waiter: str) -> None:
        """*waiter* is about to be killed, so it may get nothing."""
        self._write("kills", waiter)


@dataclass
class Balance:
    """What the books of some processes add up to."""

    processes: int = 0
    sent: int = 0
    waits: int = 0
    delivered: int = 0
    #: Waits that were killed on purpose, and got nothing.
    killed: int = 0
    missing: int = 0
    doubled: int = 0
    #: Waits that got another task's value.
    wrong: int = 0
    #: The longest wait that got its result, in seconds.
    longest: float = 0.0

    def __add__(self, other: Balance) -> Balance:
        sums = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in fields(self)
        }
        return Balance(**{**sums, "longest": max(self.longest, other.longest)})

    @property
    def balances(self) -> bool:
        return self.waits > 0 and not (self.missing or self.doubled or self.wrong)


def balance(events: Iterable[list[Any]]) -> Balance:
    """Add up the events of one process."""
    result = Balance(processes=1)
    expected: dict[str, tuple[Any, float]] = {}
    got: Counter[str] = Counter()
    killed: set[str] = set()
    for kind, *rest in events:
        if kind == "sent":
            result.sent += 1
        elif kind == "waits":
            waiter, _, value, begun = rest
            expected[waiter] = value, begun
        elif kind == "kills":
            killed.update(rest)
        elif kind == "got":
            waiter, value, ended = rest
            got[waiter] += 1
            right, begun = expected[waiter]
            result.wrong += value != right
            result.longest = max(result.longest, ended - begun)
        else:
            raise ValueError(f"no such event: {kind!r}")
    result.waits = len(expected)
    result.delivered = len(got)
    result.doubled = sum(count > 1 for count in got.values())
    lacking = expected.keys() - got.keys()
    result.killed = len(lacking & killed)
    result.missing = len(lacking - killed)
    return result


def books(folder: str) -> Iterator[tuple[str, Balance]]:
    """The balance of each process, with the name that its book has."""
    for path in sorted(Path(folder).glob("*.jsonl")):
        name, _, _ = path.stem.rpartition(" ")
        yield name, balance(map(json.loads, path.read_text().splitlines()))


HEADINGS = (
    *("web processes", "number", "sent", "waits", "delivered", "killed", "missing", "doubled"),
    *("wrong", "longest wait"),
)


def table(rows: dict[str, Balance]) -> str:
    """The balances as text, with a last line for all of them."""
    lines: list[tuple[object, ...]] = [HEADINGS]
    for name, row in [*rows.items(), ("all", sum(rows.values(), Balance()))]:
        counts = (row.processes, row.sent, row.waits, row.delivered, row.killed, row.missing)
        lines.append((name, *counts, row.doubled, row.wrong, f"{row.longest:.1f} s"))
    widths = [max(len(str(line[i])) for line in lines) for i in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            str(cell).rjust(width) if i else str(cell).ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    )
