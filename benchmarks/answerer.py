"""``answerer.py redis BROKER STORE``, ``answerer.py rabbitmq BROKER``: answers each task at once.

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

from .results import EXPIRES, PREFIX, payload

#: Celery's default queue.
QUEUE = "celery"

#: Tasks that are answered in one round trip to Redis.
CHUNK = 100


def from_redis(broker_url: str, store_url: str) -> None:
    broker, store = redis.Redis.from_url(broker_url), redis.Redis.from_url(store_url)
    broker.ping()
    print("ready", flush=True)
    while True:
        _, first = broker.brpop([QUEUE])
        with store.pipeline(transaction=False) as pipe:
            for message in [first, *(broker.rpop(QUEUE, CHUNK) or ())]:
                task = json.loads(message)
                task_id = task["headers"]["id"]
                body = answer(task_id, base64.b64decode(task["body"]))
                pipe.set(PREFIX + task_id, body, ex=EXPIRES)
                pipe.publish(PREFIX + task_id, body)
            pipe.execute()


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
            result = amqp.Message(
                answer(task_id, task.body),
                content_type="application/json",
                content_encoding="utf-8",
                correlation_id=task_id,
                delivery_mode=1,
            )
            channel.basic_publish(result, routing_key=task.properties["reply_to"])

        channel.basic_consume(QUEUE, no_ack=True, callback=tasks.append)
        print("ready", flush=True)
        while True:
            connection.drain_events()
            while tasks:
                publish(tasks.popleft())


def answer(task_id: str, body: str | bytes) -> str:
    (x, y), *_ = json.loads(body)
    return payload(task_id, x + y)


if __name__ == "__main__":
    store, *urls = sys.argv[1:]
    {"redis": from_redis, "rabbitmq": from_rabbitmq}[store](*urls)
