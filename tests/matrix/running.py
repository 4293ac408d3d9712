"""A cell from its installation to the end of its tests."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import environments
from .cells import CELLS, Cell
from .environments import Failure
from .redises import server_folder

__all__ = ("Outcome", "Runner")

#: Seconds that a part of the suite may take.
LONGEST = 1200.0


@dataclass
class Outcome:
    """What has come of a cell."""

    cell: Cell

    #: Why it was not run; empty: it was.
    skipped: str = ""

    #: What failed, with its output; empty: nothing.
    failures: list[str] = field(default_factory=list)

    #: What is installed.
    versions: dict[str, str] = field(default_factory=dict)

    #: The last line of pytest, by mode.
    passed: dict[str, str] = field(default_factory=dict)

    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        if self.skipped:
            return f"skipped: {self.skipped}"
        return "failed" if self.failures else "passed"

    @property
    def result(self) -> str:
        """What the tests have come to, in a line."""
        by_mode = "; ".join(f"{mode}: {passed}" for mode, passed in self.passed.items())
        return by_mode if by_mode and not self.skipped else self.verdict


class Runner:
    """Runs cells in *folder*, with the wheel that is built there first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        self.wheel = environments.build(folder / "wheel")
        # The tests alone, so that what they import is the wheel's.
        self.checkout = folder / "checkout"
        self.checkout.mkdir()
        shutil.copy("setup.cfg", self.checkout)
        shutil.copytree("tests", self.checkout / "tests", ignore=shutil.ignore_patterns("*.pyc"))

    def run(self, cell: Cell) -> Outcome:
        outcome = Outcome(cell)
        begun = time.monotonic()
        try:
            python = environments.interpreter(cell.python)
            worker = self._worker(cell)
            if python is None:
                outcome.skipped = f"no Python {cell.python} on this machine"
                return outcome
            environments.make(cell, python, self.wheel, self._of(cell.name))
            outcome.versions = environments.versions(self._of(cell.name))
            for mode, arguments in cell.parts.items():
                self._test(outcome, mode, arguments, worker)
        except Failure as exc:
            outcome.failures.append(str(exc))
        outcome.seconds = time.monotonic() - begun
        return outcome

    def _of(self, name: str) -> Path:
        return self.folder / "environments" / name

    def _worker(self, cell: Cell) -> str:
        """The Python that the cell's workers run in, made for it alone; empty: the cell's own."""
        if not cell.worker:
            return ""
        other = next(other for other in CELLS if other.name == cell.worker)
        python = environments.interpreter(other.python)
        if python is None:
            raise Failure(f"no Python {other.python} for the workers on this machine")
        folder = self._of(f"{cell.name}, workers")
        environments.make(other, python, self.wheel, folder)
        return environments.python_of(folder)

    def _test(self, outcome: Outcome, mode: str, arguments: tuple[str, ...], worker: str) -> None:
        cell = outcome.cell
        folders = [str(server_folder(cell.redis, self.folder)), str(self._of(cell.name) / "bin")]
        environment = {
            **os.environ,
            **cell.environment,
            "PATH": os.pathsep.join([*folders, os.environ["PATH"]]),
            "TESTS_WORKER_PYTHON": worker,
        }
        log = self.folder / f"{cell.name}-{mode}.log"
        with log.open("w") as output:
            suite = subprocess.Popen(
                [
                    *(environments.python_of(self._of(cell.name)), "-m", "tests.launch", mode),
                    *("-q", "-p", "no:cacheprovider", *arguments),
                ],
                cwd=self.checkout,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                suite.wait(LONGEST)
            except subprocess.TimeoutExpired:
                os.killpg(suite.pid, signal.SIGKILL)
                suite.wait()
        text = log.read_text()
        counted = re.findall(r"^=*\s*(\d+ (?:passed|failed).*?) in [\d.]+s", text, re.MULTILINE)
        outcome.passed[mode] = _shortened(counted[-1]) if counted else "no end"
        if suite.returncode:
            outcome.failures.append(f"{mode}: {outcome.passed[mode]}\n{text[-20_000:]}")


def _shortened(counted: str) -> str:
    """What of pytest's last line tells something of the versions."""
    parts = counted.split(", ")
    return ", ".join(
        part for part in parts if not part.endswith(("deselected", "warnings", "warning"))
    )
