"""The results that are waited for: the same ids and payloads in all processes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from uuid import UUID

import amqp
import redis

#: What Celery puts before a task id to make its key, and its channel, in Redis.
PREFIX = "celery-task-meta-"

#: Seconds that Redis keeps a result, as Celery's default.
EXPIRES = 24 * 3600


def task_ids(count: int, seed: int = 1) -> list[str]:
    """So many ids as Celery makes them, the same for the same *seed*."""
    source = random.Random(seed)
    return [str(UUID(int=source.getrandbits(128), version=4)) for _ in range(count)]


def payload(task_id: str, value: object) -> str:
    """What a worker stores of a task that has succeeded."""
    meta = {
        "status": "SUCCESS",
        "result": value,
        "traceback": None,
        "children": [],
        "date_done": "2026-01-01T00:00:00.000000+00:00",
        "task_id": task_id,
    }
    return json.dumps(meta)


def message(task_id: str, value: object) -> amqp.Message:
    """The same as a message for a reply queue."""
    return amqp.Message(
        payload(task_id, value),
        content_type="application/json",
        content_encoding="utf-8",
        correlation_id=task_id,
        delivery_mode=1,
    )


class Keys:
    """The same in Redis, stored and published as Celery does."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url)

    def store(self, values: Mapping[str, object]) -> None:
        """Store what each of these tasks has returned."""
        with self._redis.pipeline(transaction=False) as pipe:
            for task_id, value in values.items():
                body = payload(task_id, value)
                pipe.set(PREFIX + task_id, body, ex=EXPIRES)
                pipe.publish(PREFIX + task_id, body)
            pipe.execute()


class Rows:
    """The same as rows of PostgreSQL, over a connection that is kept."""

    def __init__(self, url: str) -> None:
        # Here, as only a database needs it.
        import psycopg

        conninfo = url.replace("db+postgresql+psycopg", "postgresql")
        self._cursor = psycopg.connect(conninfo, autocommit=True).cursor()

    def store(self, values: Mapping[str, object]) -> None:
        """Store what each of these tasks has returned."""
        self._cursor.executemany(
            "INSERT INTO celery_taskmeta (id, task_id, status, result, date_done) "
            "VALUES (nextval('task_id_sequence'), %s, 'SUCCESS', %s, now())",
            [(task_id, json.dumps(value).encode()) for task_id, value in values.items()],
        )


def shuffled(ids: list[str]) -> Iterator[tuple[int, str]]:
    """Index and id of each, in an order that has nothing to do with that of the waits."""
    indexes = list(range(len(ids)))
    random.Random(2).shuffle(indexes)
    return ((index, ids[index]) for index in indexes)
