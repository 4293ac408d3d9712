"""What is possible at best: the protocols and the green libraries, without Celery."""

from __future__ import annotations

import gc
import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import amqp
import redis

from tests.green import MODE, spawn

from .plan import Measurement
from .process import Clock, Helper, fall_silent, rss, settle
from .results import PREFIX, task_ids

#: Messages that are read before those run whom they have woken.
BATCH = 100

#: What takes a state, once it is decoded.
Take = Callable[[dict[str, Any]], object]


class RedisMessages:
    """The results of a measurement, as redis-py's pub/sub has them."""

    #: Where they are to be sent to: each has a channel of its own.
    queue = None

    def __init__(self, what: Measurement, url: str) -> None:
        self._pubsub = redis.Redis.from_url(url, protocol=2).pubsub()
        self._pubsub.subscribe(*[PREFIX + task_id for task_id in task_ids(what.count)])
        for _ in range(what.count):
            self._pubsub.get_message(timeout=None)

    def read(self, count: int, take: Take) -> None:
        """Read so many, and give each to *take*."""
        for _ in range(count):
            take(json.loads(self._pubsub.get_message(timeout=None)["data"]))


class AmqpMessages:
    """The same, as py-amqp has them."""

    def __init__(self, what: Measurement, url: str) -> None:
        parts = urlsplit(url)
        self._connection = amqp.Connection(f"{parts.hostname}:{parts.port}")
        self._connection.connect()
        self._channel = self._connection.channel()
        self.queue = self._channel.queue_declare(exclusive=True).queue
        self._channel.basic_consume(self.queue, no_ack=True, callback=self._on_message)

    def read(self, count: int, take: Take) -> None:
        self._left, self._take = count, take
        while self._left:
            self._connection.drain_events()

    def _on_message(self, message: Any) -> None:
        self._take(json.loads(message.body))
        self._left -= 1


def _both_ends(
    what: Measurement, addresses: dict[str, str]
) -> tuple[RedisMessages | AmqpMessages, Helper]:
    """What reads the results, and who is to publish them."""
    url = addresses[what.store]
    arriving = AmqpMessages if what.store == "rabbitmq" else RedisMessages
    return arriving(what, url), Helper("publisher", what.store, url, what.count, 1).ready()


def messages(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    """Read messages and decode their JSON, in one loop that does nothing else."""
    arriving, publisher = _both_ends(what, addresses)
    settle(what.settle)
    clock = Clock()
    publisher.start(arriving.queue)
    arriving.read(what.count, deque(maxlen=0).append)
    return _each(clock.stop(), what.count)


def loop(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    """Both in one, as a ``get()`` without Celery: each message wakes who waits for it.

    With a timeout, as those of :mod:`.waits` have. Who is woken runs after each :data:`BATCH` of
    messages: where all is read first that is there, it takes longer.
    """
    arriving, publisher = _both_ends(what, addresses)
    events: dict[str, Any] = {}
    came: dict[str, Any] = {}
    left, failed = what.count, 0
    over = threading.Event()

    def wait(index: int, task_id: str, event: Any) -> None:
        nonlocal left, failed
        event.wait(what.patience)
        failed += came.pop(task_id, {}).get("result") != index
        left -= 1
        if not left:
            over.set()

    def take(meta: dict[str, Any]) -> None:
        task_id = meta["task_id"]
        came[task_id] = meta
        events.pop(task_id).set()
        if not len(events) % BATCH:
            time.sleep(0)

    for index, task_id in enumerate(task_ids(what.count)):
        events[task_id] = _event()
        spawn(wait, index, task_id, events[task_id])
    spawn(arriving.read, what.count, take)
    fall_silent(what.patience / 4)
    gc.collect()
    settle(what.settle)
    clock = Clock()
    publisher.start(arriving.queue)
    over.wait(what.patience)
    return {**_each(clock.stop(), what.count), "failed": left + failed}


def wake(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    """Wake so many greenlets, each through its own event, in an order like that of results.

    In the order in which they were made it takes less, but no results come like that.
    """
    events: list[Any] = []
    left = what.count
    over = threading.Event()

    def wait(event: Any) -> None:
        nonlocal left
        event.wait()
        left -= 1
        if not left:
            over.set()

    memory = rss()
    for _ in range(what.count):
        event = _event()
        events.append(event)
        spawn(wait, event)
    fall_silent(what.patience / 4)
    memory = rss() - memory
    random.Random(2).shuffle(events)
    gc.collect()
    settle(what.settle)
    clock = Clock()
    for event in events:
        event.set()
    over.wait()
    return {**_each(clock.stop(), what.count), "memory": memory / what.count / 1024}


def register(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    """Subscribe to so many channels with one command, and look them up with another."""
    client = redis.Redis.from_url(addresses["redis"], protocol=2)
    client.ping()
    pubsub = client.pubsub()
    pubsub.subscribe("another")
    pubsub.get_message(timeout=None)
    channels = [PREFIX + task_id for task_id in task_ids(what.count)]
    gc.collect()
    clock = Clock()
    pubsub.subscribe(*channels)
    for _ in channels:
        pubsub.get_message(timeout=None)
    client.mget(channels)
    return _each(clock.stop(), what.count)


def _each(clock: Clock, count: int) -> dict[str, Any]:
    return {"failed": 0, "cpu": clock.cpu / count * 1e6, "wall": clock.wall / count * 1e6}


def _event() -> Any:
    """What a greenlet can wait for, of its own library."""
    if MODE == "gevent":
        from gevent.event import Event

        return Event()
    from eventlet.event import Event as EventletEvent

    event = EventletEvent()
    event.set = event.send
    return event
