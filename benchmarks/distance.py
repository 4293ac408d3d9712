"""What was measured over the link, as a table."""

from __future__ import annotations

from collections.abc import Mapping

from .plan import Measurement
from .rounding import rounded

__all__ = ("DELAYS", "FAR", "far")

#: Milliseconds that everything travels, each way: the last of them is far.
DELAYS = (0, 1, 20)
FAR = DELAYS[-1]

NAMES = {"redis": "Redis", "rabbitmq": "RabbitMQ", "postgresql": "PostgreSQL"}

#: Operations of ``far.py``, in words.
OPERATIONS = {
    "ping": "PING",
    "get": "get() of a stored result",
    "then": "then() of a stored result",
    "trip": "delay().get()",
    "request": "delay().get(), each in a fresh greenlet",
    "state": "{count:,} times state, at once",
    "reconnect": "get() whose connection is lost",
}

HEADING = ("server", "operation", "contender", "0 ms: ms", "1 ms: ms", "20 ms: round trips")


def far(figures: Mapping[Measurement, Mapping[str, float]]) -> list[list[str]]:
    """A line for each operation of each contender: milliseconds, and round trips of the far one."""
    measured = [what for what in figures if what.case == "far"]
    lines = [
        [NAMES[store], words.format(count=what.count), what.contender, *_cells(name, figures[what])]
        for store in NAMES
        for name, words in OPERATIONS.items()
        for what in measured
        if what.store == store and (name == "ping") == (what.contender == "limit")
    ]
    return [list(HEADING), *lines]


def _cells(operation: str, figures: Mapping[str, float]) -> list[str]:
    *near, far = (figures.get(f"{operation} {delay}") for delay in DELAYS)
    return [*map(_text, near), _text(far and far / (2 * FAR))]


def _text(value: float | None) -> str:
    """What was not measured has failed."""
    return "failed" if value is None else rounded(round(value, 2))
