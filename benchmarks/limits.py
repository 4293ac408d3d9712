"""What is possible at best: the protocols and the green libraries, without Celery."""

from __future__ import annotations

import gc
import json
import random
import threading
from typing import Any
from urllib.parse import urlsplit

import amqp
import redis

from tests.green import MODE, spawn

from .plan import Measurement
from .process import Clock, Helper, fall_silent, rss, settle
from .results import PREFIX, task_ids


def messages(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    """Read messages and decode their JSON, in one loop that does nothing else."""
    loop = amqp_messages if what.store == "rabbitmq" else redis_messages
    clock = loop(what, addresses[what.store])
    return _each(clock, what.count)


def redis_messages(what: Measurement, url: str) -> Clock:
    pubsub = redis.Redis.from_url(url, protocol=2).pubsub()
    pubsub.subscribe(*[PREFIX + task_id for task_id in task_ids(what.count)])
    for _ in range(what.count):
        pubsub.get_message(timeout=None)
    publisher = Helper("publisher", what.store, url, what.count, 1).ready()
    settle(what.settle)
    clock = Clock()
    publisher.start()
    for _ in range(what.count):
        json.loads(pubsub.get_message(timeout=None)["data"])
    return clock.stop()


def amqp_messages(what: Measurement, url: str) -> Clock:
    publisher = Helper("publisher", what.store, url, what.count, 1).ready()
    parts = urlsplit(url)
    left = what.count

    def on_message(message: Any) -> None:
        nonlocal left
        json.loads(message.body)
        left -= 1

    with amqp.Connection(f"{parts.hostname}:{parts.port}") as connection:
        channel = connection.channel()
        queue = channel.queue_declare(exclusive=True).queue
        channel.basic_consume(queue, no_ack=True, callback=on_message)
        settle(what.settle)
        clock = Clock()
        publisher.start(queue)
        while left:
            connection.drain_events()
        return clock.stop()


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
    settle(what.settle)
    gc.collect()
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
