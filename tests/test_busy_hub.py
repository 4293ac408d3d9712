"""A process that does not let its green threads run for a while, as one does that computes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from celery import Celery

from .green import GREEN, block, spawn_get, wait_until
from .servers import RedisServer

pytestmark = pytest.mark.skipif(not GREEN, reason="native threads run beside each other")


@pytest.mark.parametrize("kind", ["redis", "rpc"])
def test_that_is_no_outage(
    make: Callable[..., Celery],
    broker: RedisServer,
    redis_rpc_app: object,
    worker: object,
    kind: str,
) -> None:
    conf = {"broker": broker.url(database=12), "results": "rpc://"} if kind == "rpc" else {}
    app = make(**conf, result_drainer_heartbeat=1)
    add, consumer = app.tasks["add"], app.backend.result_consumer
    assert add.delay(1, 1).get(timeout=20) == 2
    time.sleep(0.3)  # by then the loop is where it waits
    got = spawn_get(add.delay(2, 2))
    block(4)  # longer than the silence after which a server is taken for lost
    wait_until(lambda: got, "the result")
    assert (got, consumer.statistics().outages) == ([4], 0)
