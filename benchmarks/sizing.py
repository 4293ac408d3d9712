"""What servers spend on results, and from that, how many they need for how many processes."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from .plan import Measurement
from .rounding import rounded

__all__ = ("processes", "servers")

#: The medians of each figure of a measurement.
Figures = Mapping[Measurement, Mapping[str, float]]

#: Results that each process waits for in a second.
LOAD = 10

#: The share of a Redis's one core that is given to results, so that bursts find room.
SHARE = 0.5

#: Web processes that are reckoned for.
PROCESSES = (10, 1_000, 10_000)

NAMES = {"redis": "Redis", "rabbitmq": "RabbitMQ"}

#: What others are in a heading than real processes with this package, all of them on Redis.
KINDS = {"stock": "stock", "limit": "simulated"}

#: Lines of the table, and the figures of a measurement that they hold.
LINES = {
    "µs of CPU, nobody waits": "alone cpu",
    "µs of CPU, one waits": "single cpu",
    "µs of CPU, all wait at once": "together cpu",
    "µs of CPU, one waits, no pause": "busy cpu",
    "bytes in, nobody waits": "alone in",
    "bytes in, one waits": "single in",
    "bytes out, nobody waits": "alone out",
    "bytes out, one waits": "single out",
    "commands of the worker": "alone commands",
    "commands of the wait": "commands",
    "connections of a process": "connections",
    "subscriptions of a process": "subscriptions",
    "KB for a process": "memory",
    "µs of CPU a second, idle": "idle",
}

HEADING = (
    *("server", "processes", "results/s", "connections", "MB for them"),
    *("cores", "cores, no pause", "MB/s in", "MB/s out", "servers"),
)


def processes(figures: Figures) -> list[list[str]]:
    """A column for each measurement with many processes."""
    shown = [what for what in figures if what.case in ("fanin", "crowd")]
    rows = [["", *map(_heading, shown)]]
    for line, name in LINES.items():
        rows.append([line, *(_text(figures[what].get(name)) for what in shown)])
    return rows


def _heading(what: Measurement) -> str:
    name = KINDS.get(what.contender, NAMES[what.store])
    return f"{name}, {what.count:,}"


def servers(figures: Figures) -> list[list[str]]:
    """What more processes need, by what the most that were measured have spent on each result."""
    # The plan has them in the order of their numbers: the last of each store is the largest.
    measured = {
        what.store: figures[what]
        for what in figures
        if what.contender == "drained" and "single cpu" in figures[what]
    }
    busy = {what.store: figures[what] for what in figures if "busy cpu" in figures[what]}
    each = {store: {**busy.get(store, {}), **measured[store]} for store in measured}
    lines = [
        [NAMES[store], f"{count:,}", *map(_text, _needs(count, each[store]))]
        for store in each
        for count in PROCESSES
    ]
    return [list(HEADING), *lines]


def _needs(processes: int, each: Mapping[str, float]) -> list[float | None]:
    """The cells of a line, from the results a second on."""
    results = processes * LOAD
    needs = {name: results * value / 1e6 for name, value in each.items()}
    memory, busy = each.get("memory"), needs.get("busy cpu")
    return [
        results,
        processes * each["connections"],
        None if memory is None else processes * memory / 1024,
        needs["single cpu"],
        busy,
        needs.get("single in"),
        needs.get("single out"),
        None if busy is None else max(ceil(busy / SHARE), 1),
    ]


def _text(value: float | None) -> str:
    return "" if value is None else rounded(value, 2)
