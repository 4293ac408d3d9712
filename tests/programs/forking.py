"""``forking MODE BROKER RESULTS``: use results, fork, and use them on both sides.

Exits 0 where parent and child each got their own results, over connections of their own.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from ..children import Children
from ..launch import patch


def main(mode: str, broker: str, results: str) -> None:
    patch(mode)
    from celery import uuid
    from celery.result import GroupResult

    from celery_green_drain import watch
    from celery_green_drain.consumers.polled.consumer import PolledResultConsumer

    from ..green import drain_loops, spawn, wait_until
    from ..tasks import make_app

    drainer = "thread" if mode == "unpatched" else mode
    app = make_app(broker, results, result_drainer=drainer)
    consumer = app.backend.result_consumer

    def store_later(task_id: str, value: Any) -> None:
        time.sleep(0.3)
        app.backend.store_result(task_id, value, "SUCCESS")

    def use(value: str) -> None:
        for _ in range(3):
            task_id = uuid()
            spawn(store_later, task_id, value)
            *_, last = watch(app.AsyncResult(task_id), timeout=20)
            assert last.result == value
            assert app.AsyncResult(task_id).get(timeout=20) == value

    use("before")
    pending = app.AsyncResult(uuid())
    called: list[object] = []
    pending.then(called.append)
    inherited = app.AsyncResult(uuid())
    inherited.then(called.append)
    together = GroupResult(uuid(), [inherited], app=app)
    together.then(called.append)
    time.sleep(0.1)

    def work(number: int) -> None:
        assert consumer.statistics().drainer is None
        assert consumer.statistics().pending == 0
        use(f"child {number}")
        mine: list[object] = []
        together.then(mine.append)
        app.backend.store_result(inherited.id, "of both", "SUCCESS")
        assert inherited.get(timeout=20) == "of both"
        assert consumer.statistics().connects == 1
        wait_until(lambda: mine == [together], "the group's callback that was given here")
        assert not called, "the others are the parent's"
        assert drain_loops() == 1, drain_loops()

    # SQLite in a child takes what its parent has locked just then for locked by itself, for ever.
    # So not in the middle of a look, but right after one.
    if isinstance(consumer, PolledResultConsumer):
        looks = consumer.statistics().lookups
        wait_until(lambda: consumer.statistics().lookups > looks, "a look")
        wait_until(lambda: not (consumer._poller and consumer._poller.busy), "its end")
    children = Children(work)
    use("parent")
    spawn(store_later, pending.id, "late")
    assert pending.get(timeout=20) == "late"
    children.check()
    assert inherited.get(timeout=20) == "of both"
    wait_until(lambda: len(called) == 3, "the parent's callbacks")
    assert all(result in called for result in (pending, inherited, together)), called
    assert consumer.statistics().connects == 1, "a child has touched the parent's connection"
    consumer.stop()
    print("fine")


if __name__ == "__main__":
    main(*sys.argv[1:])
