"""``doctor --exec``: start a web server once, look into its processes, and end it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..drainers.patching import LIBRARIES
from ..quoting import one_line
from .findings import Finding

__all__ = ("check_command",)

#: What goes into the processes, see there.
HOOK = Path(__file__).with_name("hook")

#: Seconds that a server has to start.
START = 30.0

#: Seconds without a further process after which there will be none.
QUIET = 1.5

#: Seconds that it has to end.
END = 10.0


def check_command(app: Any, command: str, figures: dict[str, Any]) -> Iterator[Finding]:
    """Start *command*, and compare its processes with the settings of *app*."""
    words = shlex.split(command)
    if Path(words[0]).name.startswith("uwsgi") and "--lazy-apps" not in words:
        yield Finding("GD404", f"{command!r} has no --lazy-apps.")
    try:
        told, trouble = _look(words, _path_of(app))
    except OSError as exc:
        told, trouble = {}, one_line(exc)
    # A master that only starts others waits for nothing.
    parents = {each["parent"] for each in told.values()}
    served = [each for pid, each in sorted(told.items()) if pid not in parents]
    if not served:
        yield Finding("GD403", f"{command!r}: {trouble}")
        return
    findings = {finding for each in served for finding in _judge(each)}
    yield from sorted(findings, key=lambda finding: (finding.id, finding.text))
    libraries = {name for each in served for name in _patched_by(each)}
    figures["web"] = f"{_count(served)}, patched by {', '.join(sorted(libraries)) or 'nothing'}"


def _count(processes: list[Any]) -> str:
    return "1 process" if len(processes) == 1 else f"{len(processes)} processes"


def _patched_by(told: dict[str, Any]) -> list[str]:
    return list(told.get("report", {"process": {"patched_by": ()}})["process"]["patched_by"])


def _judge(told: dict[str, Any]) -> Iterator[Finding]:
    """Say what is wrong in one process."""
    if "error" in told:
        yield Finding("GD403", f"Its report fails: {told['error']}")
        return
    report = told["report"]
    process, drainer = report["process"], report["settings"].get("drainer")
    if report["problem"]:
        yield Finding("GD002", f"In the web process: {report['problem']}")
    elif not drainer:
        yield Finding("GD001", "In the web process result_drainer is not set.")
    elif process["trouble"]:
        yield Finding("GD402", process["trouble"])
    elif drainer in LIBRARIES and drainer not in process["patched_by"]:
        found = ", ".join(process["patched_by"]) or "nothing"
        yield Finding("GD402", f"result_drainer is {drainer!r}, and it is patched by {found}.")


def _path_of(app: Any) -> str:
    """Where *app* is found, such as ``shop.celery:app``."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in ("celery", "__main__"):
            for attribute, value in list(getattr(module, "__dict__", {}).items()):
                if value is app:
                    return f"{name}:{attribute}"
    return ":"


def _look(words: list[str], app: str) -> tuple[dict[int, dict[str, Any]], str]:
    """What the processes of a command tell of themselves, by their numbers; and why none does."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(HOOK), os.environ.get("PYTHONPATH")])),
            "GREEN_DRAIN_APP": app,
            "GREEN_DRAIN_TOLD": folder,
        }
        with _started(words, environment, log) as process:
            told = _wait(process, Path(folder))
            status = process.poll()
        log.seek(0)
        said = [line.strip() for line in log if line.strip()]
    if status is None:
        return told, f"No process has imported the app within {START:g} s."
    return told, f"It has ended with status {status}: {said[-1] if said else ''}"


@contextmanager
def _started(
    words: list[str], environment: dict[str, str], log: Any
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        words,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(END)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def _wait(process: subprocess.Popen[bytes], folder: Path) -> dict[int, dict[str, Any]]:
    """Wait until no further process tells of itself."""
    deadline = time.monotonic() + START
    seen: set[Path] = set()
    while process.poll() is None and time.monotonic() < deadline:
        files = set(folder.glob("*.json"))
        if files - seen:
            seen, deadline = files, time.monotonic() + QUIET
        time.sleep(0.05)
    return {int(file.stem): json.loads(file.read_text()) for file in seen}
