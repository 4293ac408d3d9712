"""What servers spend on results, and from that, how many they need for how many processes."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from .plan import Measurement

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

#: Lines of the table, and the figures of a measurement that they hold.
LINES = {
    "µs of CPU, nobody waits": "alone cpu",
    "µs of CPU, one waits": "single cpu",
    "µs of CPU, all wait at once": "together cpu",
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
    *("server", "processes", "results a second", "connections", "MB for them"),
    *("cores, nobody waits", "cores", "MB a second in", "out", "servers"),
)


def processes(figures: Figures) -> list[list[str]]:
    """A column for each measurement with many processes."""
    shown = [what for what in figures if what.case == "fanin"]
    rows = [["", *map(_heading, shown)]]
    for line, name in LINES.items():
        rows.append([line, *(_text(figures[what].get(name)) for what in shown)])
    return rows


def _heading(what: Measurement) -> str:
    stock = "stock, " if what.contender == "stock" else ""
    return f"{stock}{NAMES[what.store]}, {what.count}"


def servers(figures: Figures) -> list[list[str]]:
    """What more processes need, each with so many results a second, as the most that were measured
    at once have spent on each result.
    """
    rows = [list(HEADING)]
    # The plan has them in the order of their numbers: the last of each store is the largest.
    measured = {
        what.store: what
        for what in figures
        if what.contender == "drained" and "single cpu" in figures[what]
    }
    for store, what in measured.items():
        each = figures[what]
        for count in PROCESSES:
            results = count * LOAD
            cores = results * each["single cpu"] / 1e6
            line = [
                count * each["connections"],
                count * each["memory"] / 1024 if "memory" in each else None,
                results * each["alone cpu"] / 1e6,
                cores,
                results * each["single in"] / 1e6 if "single in" in each else None,
                results * each["single out"] / 1e6 if "single out" in each else None,
                max(ceil(cores / SHARE), 1) if store == "redis" else None,
            ]
            rows.append([NAMES[store], f"{count:,}", f"{results:,}", *map(_text, line)])
    return rows


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2g}"
