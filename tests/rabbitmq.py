"""A RabbitMQ of the tests' own, that can be killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import amqp

from .green import wait_until
from .servers import Process, free_port

#: Where packages put the script that runs the server as whoever calls it.
SCRIPTS = ("/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin")


def rabbitmq_executable() -> str:
    path = os.pathsep.join([*SCRIPTS, os.environ.get("PATH", "")])
    found = shutil.which("rabbitmq-server", path=path)
    if found is None:
        raise AssertionError("There is no rabbitmq-server: scripts/test installs it.")
    return found


class RabbitServer:
    """A RabbitMQ with its own data, its own port mapper, and nothing switched on."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory()
        names = free_port()
        base = Path(self.folder.name)
        (base / "plugins").write_text("[].\n")
        # Otherwise each process that starts would make one, and read what another has half written.
        cookie = base / ".erlang.cookie"
        cookie.write_text("TESTS" * 4)
        cookie.chmod(0o400)
        # As large as RabbitMQ 3 takes them: since 4.0 it is an eighth of that.
        largest = 128 * 1024 * 1024
        (base / "rabbitmq.conf").write_text(
            f"vm_memory_high_watermark.relative = 0.9\nmax_message_size = {largest}\n"
        )
        self.environment = {
            "HOME": str(base),
            "ERL_EPMD_PORT": str(names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"tests{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(base),
            "RABBITMQ_LOG_BASE": str(base),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(base / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(base / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(base / "rabbitmq.conf"),
            # It waits for work without burning one of few cores.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }
        self.mapper = Process("epmd", "-port", str(names), cwd=str(base), **self.environment)
        self.process: Process
        self.start()

    def url(self, port: int | None = None) -> str:
        """Its address, or that of a proxy before it."""
        return f"amqp://guest:guest@127.0.0.1:{port or self.port}//"

    def start(self) -> None:
        # It may leave a dump where it ran, when it is killed.
        self.process = Process(rabbitmq_executable(), cwd=self.folder.name, **self.environment)
        wait_until(self._answers, f"RabbitMQ on port {self.port}", timeout=90)

    def _answers(self) -> bool:
        if self.process.popen.poll() is not None:
            raise AssertionError(f"RabbitMQ ended:\n{self.process.output()}")
        try:
            self.connect().close()
        except (OSError, amqp.AMQPError):
            return False
        return True

    def connect(self) -> amqp.Connection:
        """A connection of the test's own."""
        connection = amqp.Connection(f"127.0.0.1:{self.port}", connect_timeout=5)
        connection.connect()
        return connection

    def kill(self) -> None:
        self.process.end(signal.SIGKILL)

    def end(self) -> None:
        self.process.end(signal.SIGKILL)
        self.mapper.end(signal.SIGKILL)
        self.folder.cleanup()

    def queues(self) -> set[str]:
        """The names of all queues. To ask so is not to use them, so they may expire."""
        return set(self.control("list_queues", "name", "--no-table-headers").split())

    def control(self, *command: str) -> str:
        """Call rabbitmqctl; return what it says."""
        script = Path(rabbitmq_executable()).with_name("rabbitmqctl")
        command = (str(script), "--silent", *command)
        control = Process(*command, cwd=self.folder.name, **self.environment)
        control.popen.wait()
        assert control.popen.returncode == 0, control.output()
        return control.output()

    def consumers(self, queue: str) -> int:
        """How many consumers a queue has."""
        with self.connect() as connection, connection.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).consumer_count)

    def messages(self, queue: str) -> int | None:
        """How many messages wait in a queue; None: there is no such queue."""
        with self.connect() as connection, connection.channel() as channel:
            try:
                return int(channel.queue_declare(queue, passive=True).message_count)
            except amqp.NotFound:
                return None

    def publish(
        self, queue: str, messages: Iterable[tuple[str | bytes, str | None]], **properties: Any
    ) -> None:
        """Put messages into a queue as they are: bodies, and the tasks that they are of."""
        properties = {"content_type": "application/json", "content_encoding": "utf-8", **properties}
        with self.connect() as connection, connection.channel() as channel:
            for body, task_id in messages:
                own = {} if task_id is None else {"correlation_id": task_id}
                channel.basic_publish(amqp.Message(body, **properties, **own), routing_key=queue)
            channel.queue_declare(queue, passive=True)  # all of them are there
