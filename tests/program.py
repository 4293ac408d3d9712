"""Runs the programs of ``tests/programs`` as processes of their own."""

from __future__ import annotations

import re
import subprocess
import sys

from .green import DRAINER, MODE
from .servers import UNMEASURED

__all__ = ("command", "run", "run_fine")

#: What ``eventlet.monkey_patch()`` says of a lock of its own on Python 3.14.
NOT_GREENED = re.compile(r"^1 RLock\(s\) were not greened,.*\n", re.MULTILINE)


def command(name: str, *arguments: str) -> tuple[str, ...]:
    """What runs the program *name*."""
    return (sys.executable, "-m", f"tests.programs.{name}", *arguments)


def run(name: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run it, with mode and drainer, to its end, which is to come within *timeout* seconds."""
    program = subprocess.run(
        command(name, MODE, *arguments, DRAINER),
        env=UNMEASURED,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    program.stderr = NOT_GREENED.sub("", program.stderr)
    return program


def run_fine(name: str, *arguments: str) -> None:
    """Run it; it is to say that all is fine."""
    program = subprocess.run(
        command(name, MODE, *arguments), capture_output=True, text=True, timeout=100
    )
    assert program.stdout.strip() == "fine", program.stderr
    assert "Traceback" not in program.stderr
    assert "Exception ignored" not in program.stderr
