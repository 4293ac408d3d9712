"""``answerer.py STORE BROKER [URL]``: answers each task at once.

What it answers is stored in Redis or PostgreSQL, or sent as the reply over RabbitMQ.

A worker without what makes Celery's slow, so that the round trip shows who waits for the result.
"""

from __future__ import annotations

import base64
import json
import sys
from collections import deque
from typing import Any
from urllib.parse import urlsplit

import amqp
import redis

from .results import Keys, Rows, message

#: Celery's default queue.
QUEUE = "celery"

#: For who waits for tasks, which may be a while.
PATIENT: dict[str, Any] = {"socket_timeout": None}

#: Tasks that are answered in one round trip to Redis.
CHUNK = 100


def from_redis(broker_url: str, store_url: str) -> None:
    broker, keys = redis.Redis.from_url(broker_url, **PATIENT), Keys(store_url)
    broker.ping()
    print("ready", flush=True)
    while True:
        _, first = broker.brpop([QUEUE])
        tasks = [first, *(broker.rpop(QUEUE, CHUNK) or ())]
        keys.store(dict(map(answer, tasks)))


def from_postgresql(broker_url: str, store_url: str) -> None:
    """For a table that is there."""
    broker, rows = redis.Redis.from_url(broker_url, **PATIENT), Rows(store_url)
    broker.ping()
    print("ready", flush=True)
    while True:
        _, task = broker.brpop([QUEUE])
        rows.store(dict([answer(task)]))


def from_rabbitmq(url: str) -> None:
    parts = urlsplit(url)
    with amqp.Connection(f"{parts.hostname}:{parts.port}") as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True, auto_delete=False)
        channel.queue_purge(QUEUE)

        # Not published where they arrive: py-amqp reads while it publishes, so that would recurse.
        tasks: deque[Any] = deque()

        def publish(task: Any) -> None:
            task_id = task.properties["correlation_id"]
            result = message(task_id, total(task.body))
            channel.basic_publish(result, routing_key=task.properties["reply_to"])

        channel.basic_consume(QUEUE, no_ack=True, callback=tasks.append)
        print("ready", flush=True)
        while True:
            connection.drain_events()
            while tasks:
                publish(tasks.popleft())


def answer(text: str | bytes) -> tuple[str, int]:
    """The id of a task that came over Redis, and what it is to return."""
    task = json.loads(text)
    return task["headers"]["id"], total(base64.b64decode(task["body"]))


def total(body: str | bytes) -> int:
    """What the task is to return."""
    (x, y), *_ = json.loads(body)
    return int(x + y)


if __name__ == "__main__":
    store, *urls = sys.argv[1:]
    sources = {"redis": from_redis, "postgresql": from_postgresql, "rabbitmq": from_rabbitmq}
    sources[store](*urls)
