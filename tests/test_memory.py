"""What a process keeps of the results that have passed through it: nothing, after some time."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import pytest
from celery import Celery, uuid

from .green import wait_until
from .memory.results import AT_ONCE, grow, to_rabbitmq, to_redis
from .rabbitmq import RabbitServer
from .servers import RedisServer

#: After so many results all buffers are full, and then so many more go through.
FIRST, LAST = 6 * AT_ONCE, 24 * AT_ONCE


@pytest.mark.parametrize("backend", ["redis", "rpc"])
def test_results_that_come_and_go(
    make: Callable[..., Celery], rabbit: RabbitServer, backend: str
) -> None:
    if backend == "redis":
        app = make()
        publish = to_redis(app)
    else:
        app = make(broker=rabbit.url(), results="rpc://", result_drainer_buffer=100)
        publish = to_rabbitmq(app, rabbit)
    (_, before, _), (_, after, _) = grow(app, publish, [FIRST, LAST])
    # One block for each result would be 9,000.
    assert after - before < (LAST - FIRST) / 10
    statistics = app.backend.result_consumer.statistics()
    assert (statistics.pending, statistics.delivered) == (0, LAST)


def test_waits_that_end_without_a_result(make: Callable[..., Celery], results: RedisServer) -> None:
    """Timeouts, results dropped with their callbacks, and callbacks that were forgotten."""
    app = make()
    consumer = app.backend.result_consumer

    def begin_and_end() -> None:
        for _ in range(500):
            app.AsyncResult(uuid()).then(print, weak=True)
            kept = app.AsyncResult(uuid())
            kept.then(print)
            app.backend.remove_pending_result(kept)
        with pytest.raises(Exception, match="timed out"):
            app.AsyncResult(uuid()).get(timeout=0.01)
        wait_until(lambda: consumer.statistics().pending == 0, "the end of all")
        wait_until(lambda: not consumer._notes, "the notes")
        wait_until(lambda: not results.subscriptions(), "the end of the subscriptions")

    def blocks() -> int:
        gc.collect()
        return sys.getallocatedblocks()

    for _ in range(3):
        begin_and_end()
    before = blocks()
    for _ in range(5):
        begin_and_end()
    assert blocks() - before < 500
    assert not consumer.table._since
