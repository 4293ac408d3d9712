"""What goes wrong in the soak, and is put right again."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..proxy import Proxy
from ..rabbitmq import RabbitServer
from ..servers import Process, RedisServer


class Faults:
    """Each method does one fault, lets it last for *seconds*, and undoes it.

    :param server: that the results come from.
    :param proxy: that stands between the web processes and it.
    :param gunicorn: whose workers are replaced.
    """

    def __init__(self, server: RedisServer | RabbitServer, proxy: Proxy, gunicorn: Process) -> None:
        self.server = server
        self.proxy = proxy
        self.gunicorn = gunicorn

    def kill(self, seconds: float) -> None:
        """the server killed with -9, and started again"""
        self.server.kill()
        time.sleep(seconds)
        self.server.start()

    def pause(self, seconds: float) -> None:
        """the server stopped (SIGSTOP), and continued"""
        self.server.process.send(signal.SIGSTOP)
        time.sleep(seconds)
        self.server.process.send(signal.SIGCONT)

    def swallow(self, seconds: float) -> None:
        """all bytes swallowed, connections left open"""
        self.proxy.swallow()
        time.sleep(seconds)
        self.proxy.pass_on()

    def reset(self, seconds: float) -> None:
        """all connections reset"""
        self.proxy.reset()

    def refuse(self, seconds: float) -> None:
        """all connections reset, and new ones as well"""
        self.proxy.refuse()
        time.sleep(seconds)
        self.proxy.pass_on()

    def delay(self, seconds: float) -> None:
        """each byte a quarter of a second late"""
        self.proxy.tell("delay 0.25")
        time.sleep(seconds)
        self.proxy.tell("delay 0")

    def replace(self, seconds: float) -> None:
        """a web worker ended by SIGTERM, and replaced"""
        os.kill(random.choice(children(self.gunicorn)), signal.SIGTERM)


class RedisFaults(Faults):
    server: RedisServer

    def client_kill(self, seconds: float) -> None:
        """CLIENT KILL of the pub/sub connections"""
        self.server.probe.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    def client_pause(self, seconds: float) -> None:
        """CLIENT PAUSE"""
        self.server.probe.execute_command("CLIENT", "PAUSE", int(seconds * 1000), "ALL")
        time.sleep(seconds)


class RabbitFaults(Faults):
    server: RabbitServer

    def close(self, seconds: float) -> None:
        """all connections closed by the broker"""
        self.server.control("close_all_connections", "on purpose")


def children(process: Process) -> list[int]:
    """The numbers of the processes that *process* has started; none where it has ended."""
    number = process.popen.pid
    try:
        return [
            int(each) for each in Path(f"/proc/{number}/task/{number}/children").read_text().split()
        ]
    except OSError:
        return []


def named(faults: Faults | type[Faults]) -> dict[str, Callable[..., Any]]:
    """The faults by their names, for the command line."""
    names = [name for name in dir(faults) if not name.startswith("_")]
    methods = {name.replace("_", "-"): getattr(faults, name) for name in names}
    return {name: method for name, method in methods.items() if callable(method)}
