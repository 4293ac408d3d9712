"""The tables of very many that wait, and of one that waits beside a heavy load."""

from __future__ import annotations

from collections.abc import Iterable

from .plan import Measurement
from .rounding import rounded

__all__ = ("beside", "many")

Figures = dict[Measurement, dict[str, float]]

#: How each case of many is called.
MANY = {"thens": "then()", "gets": "get()", "groups": "then() of groups of 100, members"}

#: The steps that they take, and what is measured of each.
STEPS = ("register", "reconnect", "deliver")
UNITS = {"s": "s", "ms": "longest stall, ms", "apart": "apart from garbage collection, ms"}

#: How each load is called.
LOADS = {
    "quiet": "nothing",
    "results": "10,000 results a second, for others",
    "states": "a task that reports 10,000 states a second",
    "large": "a result of 100 MB",
    "burst": "100,000 waits that begin",
}


def many(figures: Figures) -> list[list[str]]:
    """A line for each number that waits."""
    heading = ["waits", "N", "KB each"]
    heading += [f"{step}: {unit}" for step in STEPS for unit in UNITS.values()]
    rows = [heading]
    for what, found in figures.items():
        if what.case in MANY:
            steps = [found.get(f"{step} {unit}") for step in STEPS for unit in UNITS]
            rows.append(
                [MANY[what.case], f"{what.count:,}", *_texts([found.get("memory"), *steps])]
            )
    return rows


def beside(figures: Figures) -> list[list[str]]:
    """A line for each load, and who bears it."""
    rows = [["beside", "contender", "round trips", "p50 ms", "p95 ms", "p99 ms", "longest ms"]]
    for what, found in figures.items():
        if what.case in LOADS:
            names = ("trips", "p50", "p95", "p99", "longest")
            texts = _texts([None if found["failed"] else found.get(name) for name in names])
            rows.append([LOADS[what.case], what.contender, *texts])
    return rows


def _texts(values: Iterable[float | None]) -> list[str]:
    return ["failed" if value is None else rounded(value) for value in values]
