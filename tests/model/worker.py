"""``worker.py SERVER PORT``: in place of a Celery worker, a process that stores what it is told to.

It reads orders from its standard input, one in a line, and carries them out when their time has
come, so that thousands of results a minute come at random moments.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import select
import sys
import time
from abc import ABC, abstractmethod
from typing import Any

#: Seconds that Redis keeps a result.
KEPT = 120

#: An order: a task id, the queue for its messages, and its steps.
Order = tuple[str, str, list["Step"]]

#: Seconds after the order, a state as JSON, and how often it is published: 0, its message is lost.
Step = tuple[float, str, int]

#: The same when its time has come.
Due = tuple[float, int, str, str, str, int]


class Store(ABC):
    """Where results go."""

    @abstractmethod
    def put(self, steps: list[Due]) -> None:
        """Store and publish *steps*, in this order."""


class RedisStore(Store):
    def __init__(self, port: int) -> None:
        import redis

        self.client = redis.Redis(port=port, client_name="worker")

    def put(self, steps: list[Due]) -> None:
        with self.client.pipeline(transaction=False) as pipe:
            for _, _, task_id, _, meta, copies in steps:
                key = f"celery-task-meta-{task_id}"
                pipe.set(key, meta, ex=KEPT)
                for _ in range(copies):
                    pipe.publish(key, meta)
            pipe.execute()


class RabbitStore(Store):
    def __init__(self, port: int) -> None:
        import amqp

        connection = amqp.Connection(f"127.0.0.1:{port}")
        connection.connect()
        self.channel = connection.channel()
        self.message = amqp.Message

    def put(self, steps: list[Due]) -> None:
        for _, _, task_id, queue, meta, copies in steps:
            for _ in range(copies):
                message = self.message(
                    meta,
                    content_type="application/json",
                    content_encoding="utf-8",
                    correlation_id=task_id,
                )
                self.channel.basic_publish(message, routing_key=queue)


def main(server: str, port: str) -> None:
    kinds: dict[str, Any] = {"redis": RedisStore, "rpc": RabbitStore}
    store: Store = kinds[server](int(port))
    due: list[Due] = []
    numbers = itertools.count()
    rest = b""
    while True:
        wait = max(0.0, due[0][0] - time.monotonic()) if due else None
        if select.select([0], [], [], wait)[0]:
            data = os.read(0, 65536)
            if not data:
                return  # who gives the orders has ended
            *lines, rest = (rest + data).split(b"\n")
            now = time.monotonic()
            for line in lines:
                task_id, queue, steps = json.loads(line)
                for delay, meta, copies in steps:
                    heapq.heappush(due, (now + delay, next(numbers), task_id, queue, meta, copies))
        now = time.monotonic()
        ready = []
        while due and due[0][0] <= now:
            ready.append(heapq.heappop(due))
        if ready:
            store.put(ready)


if __name__ == "__main__":
    main(*sys.argv[1:])
