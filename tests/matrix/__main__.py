"""The command line of ``scripts/matrix``."""

from __future__ import annotations

import argparse
import csv
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

from .cells import CELLS, Cell
from .environments import SHOWN
from .running import Outcome, Runner

#: Where environments, servers and logs are; each run begins anew.
FOLDER = Path("build/matrix")


def main() -> int:
    options = _options()
    if options.list:
        for cell in CELLS:
            print(f"{cell.name:16} Python {cell.python:7} {' '.join(cell.pins)}")
        return 0
    cells = [cell for cell in CELLS if _wanted(cell, options)]
    runner = Runner(FOLDER.absolute())
    outcomes = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(runner.run, cells):
            outcomes.append(outcome)
            _show(outcome)
    if options.out:
        _write(outcomes, Path(options.out))
    failed = [outcome.cell.name for outcome in outcomes if outcome.failures]
    skipped = [outcome.cell.name for outcome in outcomes if outcome.skipped]
    print(f"{len(outcomes)} cells, failed: {_names(failed)}; skipped: {_names(skipped)}")
    return 1 if failed else 0


def _names(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/matrix", description="Test it with other versions, each in its environment."
    )
    add = parser.add_argument
    add("cells", nargs="*", metavar="CELL", help="the cells to run (all of them)")
    add("--quick", action="store_true", help="the oldest and the newest of everything only")
    add("--list", action="store_true", help="list the cells")
    add("--jobs", type=int, default=2, help="cells that run at once (%(default)s)")
    add("--out", metavar="FOLDER", help="write the table there, for the docs")
    options = parser.parse_args()
    unknown = set(options.cells) - {cell.name for cell in CELLS}
    if unknown:
        parser.error(f"no such cell: {', '.join(sorted(unknown))}. --list lists them.")
    return options


def _wanted(cell: Cell, options: argparse.Namespace) -> bool:
    if options.cells:
        return cell.name in options.cells
    return cell.quick or not options.quick


def _show(outcome: Outcome) -> None:
    print(f"== {outcome.cell.name}: {outcome.verdict}, {outcome.seconds:.0f} s")
    print("   " + ", ".join(f"{name} {version}" for name, version in outcome.versions.items()))
    for mode, passed in outcome.passed.items():
        print(f"   {mode}: {passed}")
    for failure in outcome.failures:
        print("   " + failure.replace("\n", "\n   "))
    sys.stdout.flush()


def _write(outcomes: list[Outcome], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "cells.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["cell", "Python", *SHOWN, "server", "tests", "verdict"])
        for outcome in outcomes:
            there = outcome.versions
            table.writerow(
                [
                    outcome.cell.name,
                    there.get("python", outcome.cell.python),
                    *(there.get(name, "") for name in SHOWN),
                    outcome.cell.redis if outcome.cell.parts else "",
                    "; ".join(f"{mode}: {passed}" for mode, passed in outcome.passed.items()),
                    outcome.verdict,
                ]
            )
    system = f"{platform.system()} {platform.machine()}"
    (folder / "made.txt").write_text(f"Made by ``scripts/matrix`` on {date.today()}, {system}.\n")


if __name__ == "__main__":
    sys.exit(main())
