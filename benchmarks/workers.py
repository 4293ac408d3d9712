"""``workers.py MEASUREMENT ADDRESSES``: stores results as Celery's workers do, when it is told to.

Each line of JSON tells it for whom, how many for each, and how many seconds after one another.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from celery import uuid
from celery.app.task import Context

from .contenders import make_app
from .plan import Measurement
from .results import task_ids


def main() -> None:
    what, addresses = Measurement(**json.loads(sys.argv[1])), json.loads(sys.argv[2])
    backend = make_app(what, addresses, name="worker").backend
    _store(backend, uuid(), None, 0)
    print("ready", flush=True)
    for line in sys.stdin:
        _store_all(backend, **json.loads(line))
        print("null", flush=True)


def _store_all(backend: Any, seeds: list[int], queues: list[str], count: int, pause: float) -> None:
    """One result of each in turn: process K waits for the ids of seed K, over queue K."""
    begun, stored = time.monotonic(), 0
    ids = [task_ids(count, seed) for seed in seeds]
    for index in range(count):
        for process, queue in enumerate(queues):
            time.sleep(max(begun + stored * pause - time.monotonic(), 0))
            _store(backend, ids[process][index], queue, index)
            stored += 1


def _store(backend: Any, task_id: str, queue: str | None, value: int) -> None:
    request = Context(id=task_id, reply_to=queue or uuid(), correlation_id=task_id)
    backend.store_result(task_id, value, "SUCCESS", request=request)


if __name__ == "__main__":
    main()
