"""The servers that results come from, and what can go wrong on the way."""

from __future__ import annotations

import json
import os
import posix
import subprocess
import sys
from abc import ABC, abstractmethod
from typing import Any

import redis
from celery import Celery
from kombu import Queue

from ..proxy import Proxy
from ..rabbitmq import RabbitServer
from ..servers import UNMEASURED, RedisServer
from ..tasks import make_app
from .worker import Order

__all__ = ("SIDES", "Side")

#: Not eventlet's, which lets others run, and one writer at a time only.
_write = posix.write


class Side(ABC):
    """One server, a proxy before it, and the process that stores results there."""

    #: Whether the server keeps a result of which no message came.
    stores = False

    def __init__(self, server: Any) -> None:
        self.server = server
        self.proxy = Proxy(server.port)
        self.worker = subprocess.Popen(
            [sys.executable, "-m", "tests.model.worker", self.name, str(server.port)],
            stdin=subprocess.PIPE,
            env=UNMEASURED,
            start_new_session=True,
        )
        assert self.worker.stdin is not None
        # Its number, as a forked child gives its orders through the same pipe.
        self._orders = self.worker.stdin.fileno()
        os.set_blocking(self._orders, True)

    @property
    @abstractmethod
    def name(self) -> str:
        """The value of ``--backend``."""

    def order(self, order: Order) -> None:
        """Have the worker store these states. Never waits for anything but the pipe."""
        line = f"{json.dumps(order)}\n".encode()
        assert len(line) < 4096, "longer than what a pipe takes in one piece"
        _write(self._orders, line)

    @abstractmethod
    def make_app(self, **conf: Any) -> Celery:
        """An app whose results come through the proxy, and whose tasks do not."""

    @abstractmethod
    def cut(self) -> None:
        """Have the server close the connections that results come over."""

    @abstractmethod
    def left(self, app: Celery) -> Any:
        """What this process has left behind on the server though nobody waits; falsy: nothing."""

    def stored(self, task_id: str) -> Any:
        """What the server has of a task, as far as it can be seen."""

    def clean(self) -> None:
        """Throw away the tasks that were sent, as nobody takes them."""

    def end(self) -> None:
        self.worker.kill()
        self.worker.wait()
        self.proxy.end()
        self.server.end()


class RedisSide(Side):
    name = "redis"
    stores = True

    def __init__(self) -> None:
        super().__init__(RedisServer("--appendonly", "no"))
        self._tasks = redis.Redis(port=self.server.port, db=1, client_name="probe")

    def make_app(self, **conf: Any) -> Celery:
        through = self.server.url("web", port=self.proxy.port)
        return make_app(self.server.url(database=1), through, redis_socket_timeout=3, **conf)

    def cut(self) -> None:
        self.server.probe.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    def left(self, app: Celery) -> Any:
        return self.server.probe.pubsub_channels()

    def stored(self, task_id: str) -> Any:
        return self.server.probe.get(f"celery-task-meta-{task_id}")

    def clean(self) -> None:
        self._tasks.delete("celery")

    def end(self) -> None:
        self._tasks.close()
        super().end()


class RabbitSide(Side):
    name = "rpc"

    def __init__(self) -> None:
        super().__init__(RabbitServer())

    def make_app(self, **conf: Any) -> Celery:
        return make_app(
            self.server.url(),
            "rpc://",
            drained_from=self.server.url(self.proxy.port),
            broker_connection_timeout=1,
            task_queues=[Queue("celery", queue_arguments={"x-max-length": 1})],
            result_expires=120,
            **conf,
        )

    def cut(self) -> None:
        self.proxy.reset()

    def left(self, app: Celery) -> Any:
        return self.server.messages(app.backend.oid)


SIDES: dict[str, type[Any]] = {"redis": RedisSide, "rpc": RabbitSide}
