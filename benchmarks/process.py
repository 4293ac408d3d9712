"""What a measured process knows of itself, and the processes that help it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ("Clock", "Helper", "fall_silent", "percentiles", "rss", "settle")


def rss() -> int:
    """The memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Clock:
    """CPU time of this process, with all its threads, and time on the wall, in seconds."""

    def __init__(self) -> None:
        self.cpu, self.wall = -time.process_time(), -time.perf_counter()

    def stop(self) -> Clock:
        self.cpu += time.process_time()
        self.wall += time.perf_counter()
        return self


def percentiles(times: list[float]) -> dict[str, float]:
    """The median and the longer ones of *times* in seconds, sorted: in milliseconds."""
    return {f"p{share}": times[len(times) * share // 100] * 1e3 for share in (50, 95, 99)}


def settle(seconds: float) -> float:
    """Wait; return how much CPU time this process took meanwhile, in seconds a second."""
    clock = Clock()
    time.sleep(seconds)
    clock.stop()
    return clock.cpu / clock.wall


def fall_silent(patience: float) -> None:
    """Return when this process has nothing to do any more, or after *patience* seconds."""
    deadline = time.monotonic() + patience
    while settle(0.1) > 0.1 and time.monotonic() < deadline:
        pass


class Helper:
    """A process that gets ready, waits for a line, and works. Several get ready at once."""

    def __init__(self, module: str, *arguments: object) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self._input, self._output = self.popen.stdin, self.popen.stdout

    def ready(self) -> Helper:
        """Wait until it is."""
        if self._output.readline() != "ready\n":
            raise RuntimeError(f"{self.popen.args} does not get ready")
        return self

    def start(self, line: object = None) -> None:
        self._input.write(json.dumps(line) + "\n")
        self._input.flush()

    def answer(self) -> Any:
        """What it says, once it does: a line of JSON."""
        return json.loads(self._output.readline())

    def end(self) -> None:
        self.popen.kill()
        self.popen.wait()
