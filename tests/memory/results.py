"""Let results through a process, and measure what it keeps."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from celery import Celery, uuid

from ..green import spawn

#: Results that are waited for at once: half of them by ``get()``, and half by a callback.
AT_ONCE = 100


def grow(
    app: Celery, publish: Callable[[Any], object], counts: list[int]
) -> Iterator[tuple[int, int, int]]:
    """Let results through; yield, at each of *counts*, that, memory blocks in use, and MiB of RSS.

    :param publish: stores the results of these task ids.
    """
    done = 0
    for count in counts:
        while done < count:
            _pass(app, publish)
            done += AT_ONCE
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        yield done, sys.getallocatedblocks(), pages * os.sysconf("SC_PAGESIZE") // 2**20


def _pass(app: Celery, publish: Callable[[Any], object]) -> None:
    ids = [uuid() for _ in range(AT_ONCE)]
    left = [AT_ONCE]
    done = threading.Event()
    lock = threading.Lock()

    def come(result: Any) -> None:
        assert result.get(timeout=0) == result.id
        with lock:
            left[0] -= 1
        if not left[0]:
            done.set()

    def wait(task_ids: list[str]) -> None:
        for task_id in task_ids:
            result = app.AsyncResult(task_id)
            result.get(timeout=60)
            come(result)

    for task_id in ids[::2]:
        app.AsyncResult(task_id).then(come)
    for start in range(1, 20, 2):
        spawn(wait, ids[start::20])
    publish(ids)
    assert done.wait(60), f"{left[0]} results are missing"


def to_redis(app: Celery) -> Callable[[list[str]], object]:
    """Store as workers do, many at once."""

    def publish(ids: list[str]) -> None:
        with app.backend.client.pipeline(transaction=False) as pipe:
            for task_id in ids:
                key, meta = app.backend.get_key_for_task(task_id), state(task_id)
                pipe.setex(key, 600, meta)
                pipe.publish(key, meta)
            pipe.execute()

    return publish


def to_rabbitmq(app: Celery, rabbit: Any) -> Callable[[list[str]], object]:
    """The same, as messages."""
    with app.producer_or_acquire() as producer:
        app.backend.on_task_call(producer, "")

    def publish(ids: list[str]) -> None:
        rabbit.publish(app.backend.oid, [(state(task_id), task_id) for task_id in ids])

    return publish


def state(task_id: str) -> str:
    return json.dumps({"task_id": task_id, "status": "SUCCESS", "result": task_id})
