"""N web processes on one Redis, of which there is nothing but the connection.

Ten thousand real ones do not fit on a machine; their connections do. Each sends what a real one
sends.
"""

from __future__ import annotations

import random
import socket
import time
from contextlib import ExitStack, closing
from typing import Any
from urllib.parse import urlsplit

import hiredis

from .fanin import RATE
from .plan import Measurement
from .results import EXPIRES, PREFIX, payload, task_ids
from .servers import Redis

#: Results in each part, where they come one by one, and where they come without a pause.
SLOW, FAST = 500, 2_000

#: Seconds between two that come one by one.
PAUSE = 1 / RATE

#: How many come at once, each from a worker and for a process of its own.
AT_ONCE = 100


class Link:
    """A connection, by the bytes."""

    def __init__(self, port: int, name: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._reader = hiredis.Reader()
        self.close = self._socket.close
        self.send(("HELLO", 3, "SETNAME", name))
        self.read(1)

    def send(self, *commands: tuple[Any, ...]) -> None:
        self._socket.sendall(b"".join(map(hiredis.pack_command, commands)))

    def read(self, replies: int) -> None:
        """Read so many replies; messages count as such."""
        while replies:
            reply = self._reader.gets()
            if reply is False:
                self._reader.feed(self._socket.recv(65536))
                continue
            if isinstance(reply, hiredis.ReplyError):
                raise reply
            replies -= 1


class Crowd:
    """The links of web processes and of workers."""

    def __init__(self, what: Measurement, addresses: dict[str, str], opened: ExitStack) -> None:
        port = urlsplit(addresses["redis"]).port
        assert port is not None
        self.server = Redis(addresses)
        self._effort = what.effort
        self._seed = 0
        names = ["web"] * what.count + ["worker"] * AT_ONCE
        links = [opened.enter_context(closing(Link(port, name))) for name in names]
        self._webs, self._workers = links[: what.count], links[what.count :]

    def idle(self, seconds: float) -> float:
        """What the server spends while nothing happens, in microseconds a second."""
        before = self.server.spent()
        time.sleep(seconds)
        return float((self.server.spent() - before)["cpu"] / seconds)

    def run(
        self, idle: float, waiting: bool = True, pause: float = 0.0, at_once: int = 1
    ) -> dict[str, float]:
        """Have results stored, so many at once; return what the server spends on each."""
        self._seed += 1
        total = int(self._effort * (SLOW if pause else FAST))
        ids = task_ids(total, self._seed)
        at_once = min(at_once, len(self._webs))
        before, begun = self.server.spent(), time.monotonic()
        for start in range(0, total, at_once):
            some = ids[start : start + at_once]
            webs = random.sample(self._webs, len(some)) if waiting else []
            self._wait(webs, some)
            self._store(some)
            self._end(webs, some)
            time.sleep(max(begun + start * pause - time.monotonic(), 0))
        spent = self.server.spent() - before
        spent["cpu"] -= int(idle * (time.monotonic() - begun))
        return {name: value / total for name, value in spent.items()}

    def _wait(self, webs: list[Link], ids: list[str]) -> None:
        for web, task_id in zip(webs, ids):
            web.send(("SUBSCRIBE", PREFIX + task_id), ("MGET", PREFIX + task_id))
        for web in webs:
            web.read(2)

    def _store(self, ids: list[str]) -> None:
        workers = list(zip(self._workers, ids))
        for worker, task_id in workers:
            worker.send(("GET", PREFIX + task_id))
        for worker, _ in workers:
            worker.read(1)
        for worker, task_id in workers:
            key, body = PREFIX + task_id, payload(task_id, 1)
            worker.send(
                ("MULTI",), ("SETEX", key, EXPIRES, body), ("PUBLISH", key, body), ("EXEC",)
            )
        for worker, _ in workers:
            worker.read(4)

    def _end(self, webs: list[Link], ids: list[str]) -> None:
        for web in webs:
            web.read(1)
        for web, task_id in zip(webs, ids):
            web.send(("UNSUBSCRIBE", PREFIX + task_id))
        for web in webs:
            web.read(1)


def crowd(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    """The same figures as of real processes."""
    with ExitStack() as opened:
        several = Crowd(what, addresses, opened)
        idle = several.idle(what.settle / 2)
        parts = {
            "alone": several.run(idle, waiting=False, pause=PAUSE),
            "single": several.run(idle, pause=PAUSE),
            "together": several.run(idle, at_once=AT_ONCE),
            "busy": several.run(idle),
        }
        kept = several.server.kept()
    return {
        "failed": 0,
        "cpu": parts["single"]["cpu"],
        "commands": parts["single"]["commands"] - parts["alone"]["commands"],
        "connections": kept["connections"] / what.count,
        "memory": kept["bytes"] / what.count / 1024,
        "idle": idle,
        **{f"{part} {name}": value for part in parts for name, value in parts[part].items()},
    }
