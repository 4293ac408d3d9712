"""What came out: a table, what was aimed at, and plots."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from math import inf, isnan, nan
from pathlib import Path
from statistics import median
from typing import Any

from . import distance, extremes, sizing
from .plan import Measurement
from .rounding import rounded

Outcomes = dict[Measurement, list[dict[str, Any]]]

#: What is aimed at: a figure of one measurement, at most so many times the sum of others'.
AIMS = Path(__file__).with_name("aims.csv")

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

#: Those that are CPU time. What else a machine does only adds to it, so the least of all rounds is
#: what is compared with an aim.
CPU_TIME = ("cpu", "registering")

#: Cases that have tables of their own.
OWN_TABLES = ("far", *extremes.MANY, *extremes.LOADS)


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
        if what.case in OWN_TABLES:
            continue
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


def goals(outcomes: Outcomes) -> list[list[str]]:
    """What was aimed at, what came out, and whether that is reached, of what was measured."""
    lines = medians(outcomes)
    for what, several in outcomes.items():
        for figure in CPU_TIME:
            if figure in lines[str(what)]:
                lines[str(what)][figure] = min(each[figure] for each in several if figure in each)
    rows = [["aim", "measured", "limit", "reached"]]
    with AIMS.open(newline="") as file:
        for aim in csv.DictReader(file):
            value = _sum(lines, aim["measured"], aim["figure"])
            limit = _sum(lines, aim["limit"], aim["figure"]) * float(aim["factor"])
            if not (isnan(value) or isnan(limit)):
                reached = value <= limit and value < inf
                rows.append([aim["aim"], _text(value), _text(limit), "yes" if reached else "no"])
    return rows


def _sum(lines: Lines, terms: str, figure: str) -> float:
    """The sum of *terms*: each a number, or a measurement, of which *figure* counts, or its own."""
    total = 0.0
    for term in map(str.strip, terms.split(";")):
        name, _, own = term.removeprefix("- ").partition(": ")
        value = float(name) if name.isdigit() else lines.of(name, own or figure)
        total += -value if term.startswith("- ") else value
    return total


def text(rows: list[list[str]]) -> str:
    """*rows* for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def tables(outcomes: Outcomes) -> dict[str, list[list[str]]]:
    """All tables, by their names; a heading alone where nothing was measured for it."""
    figures = {what: _medians(several) for what, several in outcomes.items()}
    return {
        "table": table(outcomes),
        "far": distance.far(figures),
        "many": extremes.many(figures),
        "beside": extremes.beside(figures),
        "fanin": sizing.processes(figures),
        "sizing": sizing.servers(figures),
        "goals": goals(outcomes),
    }


def write(folder: Path, outcomes: Outcomes) -> None:
    """Write everything into *folder*: tables as CSV, all outcomes as JSON, plots as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables(outcomes).items():
        if min(len(rows), len(rows[0])) == 1:
            continue  # nothing of that kind was measured
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    everything = [{**asdict(what), "outcomes": several} for what, several in outcomes.items()]
    (folder / "outcomes.json").write_text(json.dumps(everything, indent=1) + "\n")
    _plot(folder / "get.svg", "CPU time of one get(), in µs", outcomes, "get", "loop", "wake")
    _plot(folder / "then.svg", "CPU time of one then(), in µs", outcomes, "then", "wake")


def _plot(path: Path, title: str, outcomes: Outcomes, *cases: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    curves: dict[str, list[tuple[int, float]]] = {}
    for what, several in outcomes.items():
        if what.case in cases and not any(outcome["failed"] for outcome in several):
            name = f"{what.contender}, {what.library} {what.store}".strip()
            figures = _medians(several)
            curves.setdefault(f"{what.case}: {name}", []).append((what.count, figures["cpu"]))
    if not curves:
        return
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, points in curves.items():
        axes.plot(*zip(*sorted(points)), marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="N", title=title)
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def _text(value: float) -> str:
    return "failed" if value == inf else rounded(value)
