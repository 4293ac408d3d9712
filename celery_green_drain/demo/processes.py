"""Child processes: started together, watched, and ended together."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ("Child", "Children", "DemoError", "Interrupt", "Interrupted")

#: Seconds that a child has to get ready, and to end.
READY = 60.0
END = 5.0

#: Seconds that a child which was killed on purpose stays down.
DOWN = 2.0

#: How much of a child's log is shown when it has ended by itself, in lines.
LOG_LINES = 40


class DemoError(Exception):
    """Raised when the demo cannot run, with what to tell the user."""


class Interrupted(Exception):
    """Raised when the user wants the demo to end."""


class Interrupt:
    """Notices Ctrl-C and SIGTERM.

    The signals only leave a note, which :meth:`check` looks at, so that none of them ends
    the demo halfway through starting a child, or through ending one.
    """

    def __init__(self) -> None:
        self._noticed = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup has it ignored.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._notice)

    def _notice(self, number: int, frame: Any) -> None:
        self._noticed = True

    def check(self) -> None:
        """:raises Interrupted: if a signal has come."""
        if self._noticed:
            raise Interrupted


class Child:
    """A process with a log.

    It has a session of its own: Ctrl-C in the terminal reaches the demo alone, which ends
    its children in order.
    """

    def __init__(self, name: str, command: list[str], log: Path, **options: Any) -> None:
        self.name = name
        self._command = command
        self._options = options
        self._log = log
        #: When it is to be started again, by the monotonic clock; None: it has not been killed.
        self._again: float | None = None
        self._start()

    def _start(self) -> None:
        with self._log.open("ab") as output:
            self.popen = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self._options,
            )

    def kill(self) -> None:
        """Kill it, to be started again :data:`DOWN` seconds later. May be called by a signal."""
        if self._again is None:
            self._again = time.monotonic() + DOWN
            self.popen.kill()

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def check(self) -> None:
        """:raises DemoError: if it has ended by itself."""
        if self._again is not None:
            if time.monotonic() >= self._again:
                self.popen.wait()
                self._start()
                self._again = None
            return
        code = self.popen.poll()
        if code is not None:
            lines = self.log().splitlines()[-LOG_LINES:]
            log = "\n".join(f"    {line}" for line in lines) or "    (empty)"
            raise DemoError(f"{self.name} has ended (exit code {code}). Its log:\n{log}")

    def end(self) -> None:
        """Have it end, by force if it takes too long. Further calls have no effect."""
        self.popen.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(END)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)  # itself, or what it has left behind
        self.popen.wait()


class Children:
    """The processes of the demo. Leaving the context ends them, the last one first."""

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt
        self._temporary = tempfile.TemporaryDirectory(prefix="celery-green-drain-")
        self._children: list[Child] = []
        #: Where the children may leave files; it is removed in the end.
        self.folder = Path(self._temporary.name)

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for child in reversed(self._children):
            child.end()
        self._temporary.cleanup()

    def start(
        self,
        name: str,
        *command: str,
        fds: tuple[int, ...] = (),
        cwd: Path | None = None,
        **variables: str,
    ) -> Child:
        """Start *command* in *cwd*, with the environment *variables* and the open files *fds*."""
        child = Child(
            name,
            list(command),
            self.folder / f"{len(self._children)}.log",
            env={**os.environ, **variables},
            pass_fds=fds,
            cwd=cwd,
        )
        self._children.append(child)
        return child

    def wait_for(self, child: Child, ready: Callable[[], bool]) -> None:
        """Wait until *child* is ready.

        :raises DemoError: if one ends before, or it takes too long.
        """
        deadline = time.monotonic() + READY
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"{child.name} is not ready after {READY:g} s.")
            time.sleep(0.05)

    def watch(self) -> None:
        """Wait until something ends the demo.

        :raises Interrupted: when the user does.
        :raises DemoError: when a child has ended.
        """
        while True:
            self.check()
            time.sleep(0.2)

    def check(self) -> None:
        """The same, without waiting."""
        self._interrupt.check()
        for child in self._children:
            child.check()
