"""The servers that the tests talk to: private processes on free loopback ports."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from celery_green_drain.demo.bundled import redis_server
from celery_green_drain.demo.processes import Child

from .green import MODE, wait_until
from .launch import BESIDE, MODES

#: A part's own ports in each mode.
PORTS = 1_600


def _ports() -> Iterator[int]:
    # Below those that the kernel gives to clients, and for each mode others, as the modes may be
    # tested at once, and each perhaps in several parts of ``scripts/test``: nobody else takes one
    # before its server does.
    part = int(os.environ.get("TESTS_PORTS", "0"))
    first = 6_000 + 5_000 * (*BESIDE, *MODES).index(MODE) + PORTS * part
    start = random.randrange(PORTS)
    for number in itertools.count(start):
        yield first + number % PORTS


_next_ports = _ports()


def free_port() -> int:
    """A port of the loopback device that nobody listens on."""
    while True:
        port = next(_next_ports)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return port


def answers(port: int) -> bool:
    """Whether somebody listens on that port of the loopback device."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def redis_executable() -> str:
    """The machine's own Redis, or else the one that a package brings."""
    found = shutil.which("redis-server") or redis_server()
    if found is None:
        raise AssertionError("There is no redis-server: pip install 'celery-green-drain[test]'.")
    return found


#: The environment of a process that coverage is not to follow: one that another library patches
#: than this one, or that is not ours.
UNMEASURED = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}


class Process(Child):
    """A child process of the tests. A signal is for it and for all that it has started."""

    def __init__(
        self, *command: str, measured: bool = False, cwd: str | None = None, **environment: str
    ) -> None:
        self._file = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        super().__init__(
            command[0],
            list(command),
            Path(self._file.name),
            env={**(os.environ if measured else UNMEASURED), **environment},
            cwd=cwd,
        )

    def output(self) -> str:
        return self.log()

    def send(self, number: int) -> None:
        os.killpg(self.popen.pid, number)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Send a signal and wait until the process has gone."""
        if self.popen.poll() is None:
            self.send(number)
            wait_until(lambda: self.popen.poll() is not None, f"the end of {self.popen.args}")


#: What runs the demo.
DEMO = (sys.executable, "-m", "celery_green_drain.demo")


@contextmanager
def site(*command: str, measured: bool = False) -> Iterator[str]:
    """What *command* serves, by the address that it tells. In the end Ctrl-C ends it in order."""
    process = Process(*command, "--port", "0", measured=measured)

    def address() -> Any:
        assert process.popen.poll() is None, process.output()
        return re.search(r"runs at (http://[\d.:]+)", process.output())

    try:
        yield wait_until(address, "its address", timeout=90)[1]
        assert process.popen.poll() is None, process.output()
    finally:
        process.end(signal.SIGINT)
    assert process.popen.returncode == 0
    assert "Traceback" not in process.output()


#: Not for whom it may concern on this machine: what writes files as who runs the tests.
FORBIDDEN = (
    "-config +config|get -module -debug -replicaof -slaveof "
    "-save -bgsave -bgrewriteaof -shutdown -acl"
)

#: The user that may do all the same.
OWNER = "owner"


class RedisServer:
    """A redis-server that can be killed and started again on the same port.

    Whoever does not know the owner's password may do what applications do, and no more.
    """

    #: The server itself; else the machine's.
    program = ""

    def __init__(self, *options: str, password: str = "") -> None:
        self.port = free_port()
        self.options = options
        self.password = password or secrets.token_hex()
        #: How applications log in: without a password, or with ``>PASSWORD``.
        self.login = "nopass"
        self.folder = tempfile.TemporaryDirectory()
        self.process: Process
        self.probe = redis.Redis(
            port=self.port, username=OWNER, password=self.password, client_name="probe"
        )
        self.start()

    def url(self, client: str = "", database: int = 0, port: int | None = None) -> str:
        """Its address, or that of a proxy before it, for connections of that client's name."""
        return f"redis://127.0.0.1:{port or self.port}/{database}?client_name={client}"

    def start(self) -> None:
        users = Path(self.folder.name, "users")
        users.write_text(
            f"user {OWNER} on >{self.password} ~* &* +@all\n"
            f"user default on {self.login} ~* &* +@all {FORBIDDEN}\n"
        )
        users.chmod(0o600)
        self.process = Process(
            self.program or redis_executable(),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder.name),
            *("--aclfile", str(users)),
            *("--appendonly", "yes", "--appendfsync", "no", "--save", "", *self.options),
        )
        wait_until(self._answers, f"redis-server on port {self.port}")

    def _answers(self) -> bool:
        if self.process.popen.poll() is not None:
            raise AssertionError(f"redis-server ended:\n{self.process.output()}")
        try:
            return bool(self.probe.ping())
        except redis.ConnectionError:
            return False

    def kill(self) -> None:
        self.process.end(signal.SIGKILL)

    def end(self) -> None:
        self.probe.close()
        self.kill()  # asked to end, it may refuse: "Writing initial AOF, can't exit"
        self.folder.cleanup()

    def clients(self, name: str = "web", **having: str) -> list[dict[str, Any]]:
        """The connections of clients of that name."""
        return [
            client
            for client in self.probe.client_list()
            if client["name"] == name and all(client[key] == value for key, value in having.items())
        ]

    def calls(self, command: str) -> int:
        """How often *command* was called since the last :meth:`reset_calls`."""
        statistics = self.probe.info("commandstats").get(f"cmdstat_{command.lower()}", {})
        return int(statistics.get("calls", 0))

    def reset_calls(self) -> None:
        self.probe.config_resetstat()

    def subscriptions(self, name: str = "web") -> int:
        """How many channels the clients of that name are subscribed to."""
        return sum(int(client["sub"]) for client in self.clients(name))


#: What runs workers: another one than the tests' where versions are mixed, see ``scripts/matrix``.
WORKER_PYTHON = os.environ.get("TESTS_WORKER_PYTHON") or sys.executable


class Worker:
    """A Celery worker: stock, unpatched, in a process of its own.

    :param persistent: it makes sure that the broker keeps its results, whatever happens.
    """

    def __init__(
        self,
        broker: str,
        results: str,
        persistent: bool = False,
        pool: str = "threads",
        queue: str = "celery",
        drainer: str = "",
        concurrency: int = 16,
        options: tuple[str, ...] = (),
        **environment: str,
    ) -> None:
        if pool == "prefork":
            concurrency = 2
        self.process = Process(
            *(WORKER_PYTHON, "-m", "celery", "-A", "tests.tasks", "worker"),
            *("--pool", pool, "--concurrency", str(concurrency), *options),
            *("--queues", queue, "--hostname", f"{queue}@%h", "--loglevel", "INFO"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            TESTS_BROKER=broker,
            TESTS_RESULTS=results,
            TESTS_MODE=pool if pool in ("gevent", "eventlet") else "unpatched",
            TESTS_PERSISTENT="yes" if persistent else "",
            TESTS_DRAINER=drainer,
            **environment,
        )
        wait_until(self._ready, "the Celery worker", timeout=120)

    def _ready(self) -> bool:
        if self.process.popen.poll() is not None:
            raise AssertionError(f"the worker ended:\n{self.process.output()}")
        return " ready." in self.process.output()

    def end(self) -> None:
        self.process.end(signal.SIGKILL)
