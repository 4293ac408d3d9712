"""A reader who types what a page says, and looks whether it prints what the page says."""

from __future__ import annotations

import doctest
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from ..green import wait_until
from ..servers import UNMEASURED, Process, answers
from .blocks import Block, Command

__all__ = ("Terminal",)

#: Seconds that a command may take.
LIMIT = 120

#: The port of the page's web servers.
WEB = "8000"

WEB_SERVER = "web server"

#: What is another one at each run.
VARYING = ((r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"), (r"0x[0-9a-f]+", "ADDRESS"))

#: It has a port of its own, if it is not told another one.
DEMO = ["python", "-m", "celery_green_drain.demo"]

#: A client that goes in the middle of an answer is an error to gevent's web server.
GONE = re.compile(r"^Traceback .*\n(?:[ \t].*\n)*(?:BrokenPipeError|ConnectionResetError).*", re.M)

#: "..." in what a page prints stands for anything.
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

#: Runs the examples of a Python console.
CONSOLE = """
import doctest, sys
sys.path.insert(0, "")
examples = doctest.DocTestParser().get_doctest({text!r}, {{}}, "page", "page", 0)
sys.exit(doctest.DocTestRunner(optionflags={options}).run(examples).failed)
"""


class Terminal:
    """The reader's folder, with the files of a page, and what runs there.

    :param ports: what is replaced in all that is typed: the usual port, and the one in its place.
    :param worker_is_there: whether a worker waits for tasks.
    """

    def __init__(
        self, folder: Path, ports: dict[str, int], worker_is_there: Callable[[], bool]
    ) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{ports[WEB]}"
        self._ports = ports
        self._worker_is_there = worker_is_there
        self._programs = Path()
        #: What goes on in a terminal of its own: a worker, and a web server.
        self._running: dict[str, Process] = {}

    def use(self, programs: Path) -> None:
        """Take programs from that folder from now on."""
        self._programs = programs

    def run(self, block: Block) -> None:
        """Do what a block says."""
        text = self._placed(block.text)
        if block.file:
            self._write(block.file, text)
        elif block.language == "console":
            for command in block.commands():
                self._type(block, command)
        elif block.language == "pycon":
            text = re.sub("0x[0-9a-f]+", "0x...", text)
            self._call(block, ["python", "-c", CONSOLE.format(text=text, options=OPTIONS)])
        elif block.language == "python":
            self._call(block, ["python", "-c", text])
        else:
            raise AssertionError(f"{block}: nobody knows how to run it")

    def _placed(self, text: str) -> str:
        for usual, port in self._ports.items():
            text = re.sub(rf"\b{usual}\b", str(port), text)
        return text

    def _write(self, caption: str, text: str) -> None:
        name, _, addition = caption.partition(" ")
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        with path.open("a" if addition else "w", encoding="utf-8") as file:
            file.write(text)

    def _type(self, block: Block, command: Command) -> None:
        command = Command(self._placed(command.text), self._placed(command.prints))
        words = command.text.split()
        if words[:2] == ["pip", "install"]:
            return  # the environment has it
        if words[0] == "celery" and "worker" in words:
            self._begin("worker", words, self._worker_is_there)
        elif words[:3] == DEMO and "--check" not in words:
            options = ["--port", str(self._ports[WEB])]
            self._begin("demo", words + options, lambda: " runs at " in self._logs())
        elif self._serves(words):
            self._begin(WEB_SERVER, words, lambda: answers(self._ports[WEB]))
        else:
            printed = self._call(block, ["sh", "-c", command.text])
            if command.prints:
                self._compare(block, command.prints, printed)

    def _serves(self, words: list[str]) -> bool:
        """Whether that command, or the script that it runs, goes on and answers on a port."""
        script = self.folder / words[-1]
        return (
            words[0] == "gunicorn"
            or words[:3] == ["python", "-m", "http.server"]
            or (
                words[0] == "python"
                and script.suffix == ".py"
                and f", {self._ports[WEB]})" in re.sub(r"port=", "", script.read_text())
            )
        )

    def _begin(self, role: str, words: list[str], is_there: Callable[[], bool]) -> None:
        self._end(role)
        program = str(self._programs / words[0])
        process = Process(program, *words[1:], cwd=str(self.folder), **self._environment())
        self._running[role] = process

        def ready() -> bool:
            assert process.popen.poll() is None, process.output()
            return is_there()

        wait_until(ready, f"{' '.join(words)}", timeout=LIMIT)

    def _end(self, role: str) -> None:
        process = self._running.pop(role, None)
        if process is not None:
            # The demo has processes of its own to end.
            process.end(signal.SIGINT if role == "demo" else signal.SIGKILL)
            if role == WEB_SERVER:  # its children may outlive it by a moment
                wait_until(lambda: not answers(self._ports[WEB]), "the end of the web server")
            assert "Traceback" not in GONE.sub("", process.output()), process.output()

    def end(self) -> None:
        """End all that goes on."""
        for role in tuple(self._running):
            self._end(role)

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self._programs), os.environ["PATH"]])
        return {
            "PATH": path,
            "HOME": str(self.folder),
            # Its first import compiles all that pip has just installed, which takes a busy machine
            # longer than gunicorn waits for a worker.
            "GUNICORN_CMD_ARGS": f"--bind 127.0.0.1:{self._ports[WEB]} --timeout {LIMIT}",
            "XDG_RUNTIME_DIR": str(self.folder),  # gunicorn puts a control socket there
        }

    def _call(self, block: Block, command: list[str]) -> str:
        process = subprocess.run(
            command,
            cwd=self.folder,
            env={**UNMEASURED, **self._environment()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        report = f"{block}: {command}\n{process.stdout}{process.stderr}{self._logs()}"
        assert process.returncode == 0, report
        # curl shows there how far it is; nobody else has a reason to say something there.
        assert command[-1].startswith("curl") or not process.stderr, report
        return process.stdout

    def _logs(self) -> str:
        return "".join(f"\n-- {role}\n{it.output()}" for role, it in self._running.items())

    def _compare(self, block: Block, expected: str, printed: str) -> None:
        for pattern, name in VARYING:
            expected, printed = re.sub(pattern, name, expected), re.sub(pattern, name, printed)
        agrees = doctest.OutputChecker().check_output(expected, printed, OPTIONS)
        assert agrees, f"{block}\nexpected:\n{expected}\nprinted:\n{printed}{self._logs()}"
