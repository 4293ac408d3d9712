"""``publisher.py STORE URL COUNT SEED``: who stores the results, as Celery's workers do.

It gets ready, says so, and begins when it is told to which queues the results are to go: a line
of JSON, a name for each result (RabbitMQ) or nothing (Redis).
"""

from __future__ import annotations

import json
import sys
from itertools import islice
from urllib.parse import urlsplit

import amqp
import redis

from .results import EXPIRES, PREFIX, payload, shuffled, task_ids

#: Results in one round trip to Redis.
CHUNK = 100


def to_redis(url: str, results: list[tuple[int, str, str]]) -> None:
    client = redis.Redis.from_url(url)
    client.ping()
    wait_for_start()
    remaining = iter(results)
    while chunk := list(islice(remaining, CHUNK)):
        with client.pipeline(transaction=False) as pipe:
            for _, task_id, body in chunk:
                pipe.set(PREFIX + task_id, body, ex=EXPIRES)
                pipe.publish(PREFIX + task_id, body)
            pipe.execute()


def to_rabbitmq(url: str, results: list[tuple[int, str, str]]) -> None:
    parts = urlsplit(url)
    with amqp.Connection(f"{parts.hostname}:{parts.port}") as connection:
        channel = connection.channel()
        queues = wait_for_start()
        for index, task_id, body in results:
            message = amqp.Message(
                body,
                content_type="application/json",
                content_encoding="utf-8",
                correlation_id=task_id,
                delivery_mode=1,
                priority=0,
            )
            queue = queues if isinstance(queues, str) else queues[index]
            channel.basic_publish(message, routing_key=queue)


def wait_for_start() -> str | list[str]:
    print("ready", flush=True)
    queues: str | list[str] = json.loads(sys.stdin.readline())
    return queues


if __name__ == "__main__":
    store, url, count, seed = sys.argv[1:]
    ids = task_ids(int(count), int(seed))
    results = [(index, task_id, payload(task_id, index)) for index, task_id in shuffled(ids)]
    {"redis": to_redis, "rabbitmq": to_rabbitmq}[store](url, results)
