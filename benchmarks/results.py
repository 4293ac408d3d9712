"""The results that are waited for: the same ids and payloads in all processes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from uuid import UUID

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


def shuffled(ids: list[str]) -> Iterator[tuple[int, str]]:
    """Index and id of each, in an order that has nothing to do with that of the waits."""
    indexes = list(range(len(ids)))
    random.Random(2).shuffle(indexes)
    return ((index, ids[index]) for index in indexes)
