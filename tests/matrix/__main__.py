"""The command line of ``scripts/matrix``."""

from __future__ import annotations

import argparse
import csv
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
    cells = _wanted(options)
    runner = Runner(FOLDER.absolute())
    outcomes = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(runner.run, cells):
            outcomes.append(outcome)
            _show(outcome)
            if options.out:
                _write(outcome, Path(options.out))
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
    add("--out", metavar="FILE", help="a table to put the outcomes into, such as that of the docs")
    options = parser.parse_args()
    unknown = set(options.cells) - {cell.name for cell in CELLS}
    if unknown:
        parser.error(f"no such cell: {', '.join(sorted(unknown))}. --list lists them.")
    return options


def _wanted(options: argparse.Namespace) -> list[Cell]:
    """The cells to run, in the order in which they are named."""
    by_name = {cell.name: cell for cell in CELLS}
    if options.cells:
        return [by_name[name] for name in options.cells]
    return [cell for cell in CELLS if cell.quick or not options.quick]


def _show(outcome: Outcome) -> None:
    print(f"== {outcome.cell.name}: {outcome.verdict}, {outcome.seconds:.0f} s")
    print("   " + ", ".join(f"{name} {version}" for name, version in outcome.versions.items()))
    for mode, passed in outcome.passed.items():
        print(f"   {mode}: {passed}")
    for failure in outcome.failures:
        print("   " + failure.replace("\n", "\n   "))
    sys.stdout.flush()


def _write(outcome: Outcome, file: Path) -> None:
    """Put the row of *outcome* into the table of *file*, in place of an older one."""
    rows: dict[str, list[str]] = {}
    if file.exists():
        with file.open(newline="") as table:
            rows = {row[0]: row for row in csv.reader(table)}
    there = outcome.versions
    rows[outcome.cell.name] = [
        outcome.cell.name,
        there.get("python", outcome.cell.python),
        *(there.get(name, "") for name in SHOWN),
        outcome.cell.redis if outcome.cell.parts else "",
        outcome.result,
        date.today().isoformat(),
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as table:
        lines = csv.writer(table, lineterminator="\n")
        lines.writerow(["cell", "Python", *SHOWN, "server", "tests", "on"])
        lines.writerows(rows[cell.name] for cell in CELLS if cell.name in rows)


if __name__ == "__main__":
    sys.exit(main())
