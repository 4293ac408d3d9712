"""What came out: a table, what was aimed at, and plots."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from math import inf, isnan, nan
from pathlib import Path
from statistics import median
from typing import Any

from .plan import Measurement

Outcomes = dict[Measurement, list[dict[str, Any]]]

#: The columns of the table, and what they hold of an outcome.
FIGURES = {
    "CPU µs": "cpu",
    "wall µs": "wall",
    "p50 ms": "p50",
    "p95 ms": "p95",
    "p99 ms": "p99",
    "registering µs": "registering",
    "commands": "commands",
    "connections": "connections",
    "KB": "memory",
    "MB grown": "growth",
}


def summary(outcome: dict[str, Any]) -> str:
    """One outcome, in a line."""
    figures = [f"{name} {_text(outcome[key])}" for name, key in FIGURES.items() if key in outcome]
    failed = (
        f"failed {outcome['failed']} {outcome.get('errors') or ''}" if outcome["failed"] else ""
    )
    return ", ".join(filter(None, [*figures, failed]))


class Lines(dict[str, dict[str, float]]):
    """The name of a measurement → the median of each of its figures."""

    def of(self, name: str, figure: str = "cpu") -> float:
        """A figure; without end where it failed, and not a number where it was not measured."""
        line = self.get(name, {})
        return inf if line.get("failed") else line.get(figure, nan)


def medians(outcomes: Outcomes) -> Lines:
    return Lines({str(what): _medians(several) for what, several in outcomes.items()})


def _medians(several: list[dict[str, Any]]) -> dict[str, float]:
    keys = {key for outcome in several for key, value in outcome.items() if _is_number(value)}
    figures = {key: median(outcome[key] for outcome in several if key in outcome) for key in keys}
    # One that fails now and then is to be seen.
    return {**figures, "failed": max(outcome["failed"] for outcome in several)}


def table(outcomes: Outcomes) -> list[list[str]]:
    """A line for each measurement, with medians, and the spread of the CPU time."""
    heading = ["case", "contender", "library", "store", "N", "failed", *FIGURES, "spread"]
    lines = [heading]
    for what, several in outcomes.items():
        figures = _medians(several)
        if figures["failed"]:
            # What a few have taken while others got nothing says nothing.
            figures = {key: figures[key] for key in figures if key not in ("cpu", "wall")}
        cpu = [outcome["cpu"] for outcome in several if "cpu" in figures]
        lines.append(
            [
                *(what.case, what.contender, what.library, what.store, f"{what.count:,}"),
                _text(figures["failed"]) if figures["failed"] else "",
                *(_text(figures[key]) if key in figures else "" for key in FIGURES.values()),
                f"{_text(min(cpu))}-{_text(max(cpu))}" if cpu else "",
            ]
        )
    return lines


def goals(lines: Lines) -> list[list[str]]:
    """What was aimed at, what came out, and whether that is reached, of what was measured."""
    get, then = "get drained gevent redis", "then drained gevent redis"
    messages, amqp = lines.of("messages limit gevent redis 10000"), "rabbitmq 10000"
    wake = {n: lines.of(f"wake limit gevent  {n}") for n in (100, 1000, 10_000, 50_000)}
    amqp_messages = lines.of(f"messages limit gevent {amqp}")
    per_wait = lines.of("register limit gevent redis 10000")
    trip = "trip {} gevent {} {}"
    aims: list[tuple[str, float, float]] = [
        *(
            (
                f"Redis, get(), {n:,}: CPU µs, 1.6 × (L1 + L3)",
                lines.of(f"{get} {n}"),
                1.6 * (messages + wake[n]),
            )
            for n in (1000, 10_000, 50_000)
        ),
        ("Redis, then(), 10,000: CPU µs, 3.5 × L1", lines.of(f"{then} 10000"), 3.5 * messages),
        *(
            (
                f"RabbitMQ, get(), {n:,}: CPU µs, 1.5 × (L4 + L3)",
                lines.of(f"get drained gevent rabbitmq {n}"),
                1.5 * (amqp_messages + wake[n]),
            )
            for n in (1000, 10_000)
        ),
        (
            "RabbitMQ, then(), 10,000: CPU µs, 1.6 × L4",
            lines.of(f"then drained gevent {amqp}"),
            1.6 * amqp_messages,
        ),
        (
            "get(), 50,000: CPU µs, 1.3 × that at 1,000",
            lines.of(f"{get} 50000"),
            1.3 * lines.of(f"{get} 1000"),
        ),
        *(
            (
                f"eventlet, {case}, {store}: CPU µs, 2 × gevent",
                lines.of(f"{case} drained eventlet {store} 10000"),
                2 * lines.of(f"{case} drained gevent {store} 10000"),
            )
            for case in ("get", "then")
            for store in ("redis", "rabbitmq")
        ),
        (
            "Registering 10,000: CPU µs each, 4 × SUBSCRIBE and MGET",
            lines.of(f"{then} 10000", "registering"),
            4 * per_wait,
        ),
        ("Registering 10,000: commands", lines.of(f"{then} 10000", "commands"), 200),
        *(
            (
                f"Round trip, 50, {store}: wall µs, {stock} / 1.25",
                lines.of(trip.format("drained", store, 50), "wall"),
                lines.of(trip.format(stock, store, 50), "wall") / 1.25,
            )
            for store, stock in (("redis", "tuned"), ("rabbitmq", "stock"))
        ),
        *(
            (
                f"Round trip, 500, {store}: p99 ms, 0.6 × {stock}",
                lines.of(trip.format("drained", store, 500), "p99"),
                0.6 * lines.of(trip.format(stock, store, 500), "p99"),
            )
            for store, stock in (("redis", "tuned"), ("rabbitmq", "stock"))
        ),
        (
            "5,000 requests: wall µs, tuned / 1.3",
            lines.of("requests drained gevent redis 5000", "wall"),
            lines.of("requests tuned gevent redis 5000", "wall") / 1.3,
        ),
        (
            "5,000 requests: p99 ms, no stall",
            lines.of("requests drained gevent redis 5000", "p99"),
            1000,
        ),
        (
            "10,000 idle waiters: CPU s in 10 s",
            lines.of("idle drained gevent redis 10000", "cpu"),
            0.02,
        ),
        (
            "A waiter beyond a greenlet: KB",
            lines.of(f"{get} 10000", "memory") - lines.of("wake limit gevent  10000", "memory"),
            5,
        ),
        (
            "Growth over 200,000 results: MB",
            lines.of("growth drained gevent redis 10000", "growth"),
            5,
        ),
    ]
    return [
        ["aim", "measured", "limit", "reached"],
        *(
            [name, _text(value), _text(limit), "yes" if value <= limit and value < inf else "no"]
            for name, value, limit in aims
            if not (isnan(value) or isnan(limit))
        ),
    ]


def text(rows: list[list[str]]) -> str:
    """*rows* for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def write(folder: Path, outcomes: Outcomes) -> None:
    """Write everything into *folder*: tables as CSV, all outcomes as JSON, plots as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("table", table(outcomes)), ("goals", goals(medians(outcomes)))):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    everything = [{**asdict(what), "outcomes": several} for what, several in outcomes.items()]
    (folder / "outcomes.json").write_text(json.dumps(everything, indent=1) + "\n")
    _plot(folder / "get.svg", "CPU time of one get(), in µs", outcomes, "get")
    _plot(folder / "then.svg", "CPU time of one then(), in µs", outcomes, "then")


def _plot(path: Path, title: str, outcomes: Outcomes, case: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    curves: dict[str, list[tuple[int, float]]] = {}
    for what, several in outcomes.items():
        if what.case in (case, "wake") and not any(outcome["failed"] for outcome in several):
            name = f"{what.contender}, {what.library} {what.store}".strip()
            figures = _medians(several)
            curves.setdefault(f"{what.case}: {name}", []).append((what.count, figures["cpu"]))
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, points in curves.items():
        axes.plot(*zip(*sorted(points)), marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="N", title=title)
    if curves:
        axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def _text(value: float) -> str:
    if value == inf:
        return "failed"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
