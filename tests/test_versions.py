"""The versions that setup.cfg claims, beside the cells of ``scripts/matrix``."""

from __future__ import annotations

import configparser
import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from .green import GREEN
from .matrix.cells import CELLS, PYTHONS, Cell

pytestmark = pytest.mark.skipif(GREEN, reason="it compares files: once is enough")

CHECKOUT = Path(__file__).parent.parent
CONFIG = configparser.ConfigParser()
CONFIG.read(CHECKOUT / "setup.cfg")

#: The extras of those who use the package. The others are for those who work on it.
EXTRAS = ("gevent", "eventlet", "redis", "prometheus", "demo", "examples")


def requirements(extra: str) -> Iterator[Requirement]:
    """What *extra* asks for, other than this package; that of all without one."""
    section, key = ("options.extras_require", extra) if extra else ("options", "install_requires")
    for line in CONFIG[section][key].splitlines():
        if line and not line.startswith(("#", "celery-green-drain")):
            yield Requirement(line)


def extras_of(cell: Cell) -> set[str]:
    """The extras that *cell* installs, and those that they are made of."""
    found = {""}
    wanted = set(cell.extras.split(","))
    while wanted:
        extra = wanted.pop()
        found.add(extra)
        for line in CONFIG["options.extras_require"][extra].splitlines():
            if line.startswith("celery-green-drain"):
                wanted |= Requirement(line).extras
    return found


def runs_the_floor(cell: Cell, extra: str, claimed: Requirement) -> bool:
    """Whether *cell* installs *claimed* in its oldest version."""
    python = PYTHONS[-1] if cell.python == "newest" else cell.python
    if claimed.marker and not claimed.marker.evaluate({"python_version": python}):
        return False
    if cell.floors and extra in extras_of(cell):
        return True
    pins = [Requirement(pin) for pin in cell.pins]
    return any(pin.name == claimed.name and pin.specifier.contains(floor(claimed)) for pin in pins)


def floor(claimed: Requirement) -> Version:
    (oldest,) = claimed.specifier
    assert oldest.operator == ">=", f"{claimed} has an end"
    return Version(oldest.version)


@pytest.mark.parametrize(
    ("extra", "claimed"),
    [(extra, claimed) for extra in ("", *EXTRAS) for claimed in requirements(extra)],
    ids=str,
)
def test_each_floor_is_run(extra: str, claimed: Requirement) -> None:
    floor(claimed)
    assert any(runs_the_floor(cell, extra, claimed) for cell in CELLS)


def test_each_python_is_run() -> None:
    claimed = {
        line.rpartition(" ")[2]
        for line in CONFIG["metadata"]["classifiers"].splitlines()
        if line.startswith("Programming Language :: Python :: 3.")
    }
    assert claimed <= set(PYTHONS) & {cell.python for cell in CELLS}
    assert CONFIG["options"]["python_requires"] == f">={PYTHONS[0]}"


def test_the_table_of_the_docs_has_each_cell() -> None:
    with (CHECKOUT / "docs" / "versions.csv").open(newline="") as table:
        rows = {row["cell"]: row for row in csv.DictReader(table)}
    assert list(rows) == [cell.name for cell in CELLS if cell.name in rows]
    assert not [name for name, row in rows.items() if "failed" in row["tests"]]
