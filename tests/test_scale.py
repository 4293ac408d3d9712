"""Thousands at once: what is counted is connections, commands, loops and wake-ups."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from celery import Celery, uuid

from celery_green_drain import DrainerStopped

from .green import GREEN, crowd, drain_loops, size, spawn, wait_until, woken
from .servers import RedisServer


def test_each_request_in_a_greenlet_of_its_own(
    app: Celery, worker: object, results: RedisServer
) -> None:
    """As a web server does it, a hundred requests at a time."""
    count, at_once = size(1000, 300), size(100, 20)
    add = app.tasks["add"]
    most: list[tuple[int, int]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            most.append((len(results.clients()), drain_loops()))

    watcher = spawn(watch)
    most.append((len(results.clients()), drain_loops()))
    for begin in range(0, count, at_once):
        values = crowd(at_once, lambda i: add.delay(i, begin).get(timeout=60))  # noqa: B023
        assert values == list(range(begin, begin + at_once))
    over.set()
    most.append((len(results.clients()), drain_loops()))
    assert max(connections for connections, _ in most) == 1
    assert max(loops for _, loops in most) == 1
    wait_until(lambda: not results.subscriptions(), "the end of all subscriptions")
    assert app.backend.result_consumer.statistics().pending == 0
    del watcher


def test_all_in_get_at_once(app: Celery, results: RedisServer) -> None:
    count = size(10_000, 300)
    ids = [uuid() for _ in range(count)]
    results.reset_calls()
    stored = spawn(store_when_subscribed, app, results, ids)
    values = crowd(count, lambda i: app.AsyncResult(ids[i]).get(timeout=100))
    assert values == list(range(count))
    assert len(results.clients(sub=str(count))) <= 1
    assert app.backend.result_consumer.statistics().connections == 1
    if GREEN:  # threads do not start at once
        assert results.calls("subscribe") <= 50
        assert results.calls("mget") <= 50
    wait_until(lambda: not results.subscriptions(), "the end of all subscriptions")
    del stored


def store_when_subscribed(app: Celery, results: RedisServer, ids: list[str]) -> None:
    wait_until(lambda: results.subscriptions() == len(ids), "all subscriptions", timeout=60)
    with app.backend.client.pipeline(transaction=False) as pipe:
        for i, task_id in enumerate(ids):
            key = app.backend.get_key_for_task(task_id)
            meta = app.backend.encode({"status": "SUCCESS", "result": i, "task_id": task_id})
            pipe.set(key, meta)
            pipe.publish(key, meta)
        pipe.execute()


def test_results_that_nobody_reads(app: Celery, results: RedisServer, broker: RedisServer) -> None:
    results.reset_calls()
    pending = [app.tasks["add"].delay(i, i) for i in range(size(1000, 300))]
    assert results.calls("subscribe") == 0
    del pending
    assert results.clients() == []
    assert drain_loops() == 0


@pytest.mark.skipif(not GREEN, reason="native threads cannot be watched switching")
def test_nobody_wakes_for_nothing(app: Celery, results: RedisServer) -> None:
    count = 10_000
    waiters = [spawn(get_until_stopped, app) for _ in range(count)]
    wait_until(lambda: results.subscriptions() == count, "all subscriptions", timeout=60)
    with woken() as targets:
        time.sleep(5)
    assert targets.isdisjoint(waiters)
    # This one that sleeps, the hub, the drainer, and what earlier tests may have left: nothing that
    # there is for each who waits.
    assert len(targets) < 10, targets
    app.backend.result_consumer.stop()
    wait_until(lambda: all(waiter.dead for waiter in waiters), "the end of the waiters")


def get_until_stopped(app: Celery) -> None:
    with suppress(DrainerStopped):
        app.AsyncResult(uuid()).get()


def test_the_first_wait_costs_no_idle_second(
    make: Callable[..., Celery], store: Callable[..., str]
) -> None:
    """Neither the first of a process nor that of a fresh greenlet (stock: a second each)."""
    app = make()
    ids = [store(i) for i in range(3)]

    def timed(i: int) -> float:
        begun = time.monotonic()
        assert app.AsyncResult(ids[i]).get(timeout=10) == i
        return time.monotonic() - begun

    gc.collect()  # what the tests before have left is not to be paid for here
    (first,), (fresh,), warm = crowd(1, lambda _: timed(0)), crowd(1, lambda _: timed(1)), timed(2)
    assert first < warm + 0.8
    assert fresh < warm + 0.8
