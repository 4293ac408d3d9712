"""A result store that is far away: what each operation takes over a link that delays everything.

The link is the proxy of the tests, between the measured process and the server of its results. Over
Redis and PostgreSQL tasks go to a broker that is near; over RabbitMQ they take the same way. Who
answers them is beside the server.

The link is a process of its own. It takes 0.1 to 0.4 ms of CPU time for a message and its answer,
and some tenths of a millisecond more time than it is to; while nothing comes, it takes none. PING,
without Celery, shows what of that is in the figures. To open a connection takes no time on the way,
unlike that over a real link, which is one more round trip.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median_low
from typing import Any
from urllib.parse import urlsplit

import amqp
import redis
from celery import uuid

from tests.green import crowd, spawn
from tests.proxy import Control

from .contenders import make_app
from .distance import DELAYS, FAR
from .plan import Measurement
from .process import Clock
from .results import Keys, Rows, message
from .trips import answerer

#: How often each operation is made, and the reads of so many states at once.
REPEATED, READ = 5, 3

#: Seconds after which one is not made again.
LONG = 1.0

#: Seconds after which it fails.
PATIENCE = 4.0

#: Seconds in which a wait has begun.
LEAD = 0.15

#: What all tasks return.
VALUE = 3

Operation = Callable[[], Iterator[float]]


class Replies:
    """Puts results into a reply queue."""

    def __init__(self, url: str, queue: str) -> None:
        parts = urlsplit(url)
        connection = amqp.Connection(f"{parts.hostname}:{parts.port}")
        connection.connect()
        self._channel, self._queue = connection.channel(), queue

    def store(self, values: Mapping[str, object]) -> None:
        for task_id, value in values.items():
            self._channel.basic_publish(message(task_id, value), routing_key=self._queue)


class Far:
    """An app whose results come over the link, and what stores them without it."""

    def __init__(self, what: Measurement, addresses: dict[str, str]) -> None:
        self.errors: Counter[str] = Counter()
        self._count = what.count
        self._repeated = max(int(what.effort * REPEATED), 1)
        self._reads = max(int(what.effort * READ), 1)
        self._apart = what.settle
        self._link = Control(int(addresses["link"]))
        self._app = make_app(what, {**addresses, what.store: addresses["far"]})
        self._store = self._near(what, addresses).store
        self._lost = 0.0

    def _near(self, what: Measurement, addresses: dict[str, str]) -> Keys | Replies | Rows:
        near = addresses[what.store]
        if what.store == "redis":
            return Keys(near)
        if what.store == "rabbitmq":
            return Replies(near, self._app.backend.oid)
        # It makes the table.
        make_app(what, addresses).backend.store_result(uuid(), VALUE, "SUCCESS")
        return Rows(near)

    def measure(self) -> dict[str, float]:
        """Milliseconds that each operation takes, by its name and the delay. What fails at a delay
        is left out, for that and for those that follow.
        """
        # The last one leaves connections to open, of which the others are not to know.
        operations: dict[str, Operation] = {
            "get": self._get,
            "then": self._then,
            "trip": self._trip,
            "request": self._request,
            "state": self._state,
            "reconnect": self._reconnect,
        }
        figures = {}
        for name, operation in operations.items():
            try:
                for delay in DELAYS:
                    self._delay(delay)
                    next(self._trip())  # whose connections are open, and all imports made
                    figures[f"{name} {delay}"] = _milliseconds(operation())
            except Exception as exc:
                self.errors[f"{name} {type(exc).__name__}"] += 1
        return figures

    def _delay(self, milliseconds: int) -> None:
        self._link.tell(f"delay {milliseconds / 1e3}")
        # What is on its way arrives, or all that follows it on its connection would be as late.
        time.sleep(2 * FAR / 1e3)

    def _get(self) -> Iterator[float]:
        for task_id in self._stored(self._repeated):
            clock = Clock()
            self._check(self._app.AsyncResult(task_id))
            yield clock.stop().wall

    def _then(self) -> Iterator[float]:
        for task_id in self._stored(self._repeated):
            called, clock = threading.Event(), Clock()
            result = self._app.AsyncResult(task_id)  # which plain Celery does not keep
            result.then(partial(_set, called))
            if not called.wait(PATIENCE):
                raise TimeoutError
            yield clock.stop().wall

    def _trip(self) -> Iterator[float]:
        for _ in range(self._repeated):
            clock = Clock()
            self._check(self._app.tasks["add"].delay(VALUE - 1, 1))
            yield clock.stop().wall

    def _request(self) -> Iterator[float]:
        """The same, each in a fresh greenlet, as a web server has it."""
        for _ in range(self._repeated):
            [took] = self._crowd(1, lambda _: next(self._trip()))
            yield took

    def _state(self) -> Iterator[float]:
        for _ in range(self._reads):
            ids = self._stored(self._count)
            clock = Clock()
            states = self._crowd(len(ids), partial(self._read, ids))
            clock.stop()
            if set(states) != {"SUCCESS"}:
                raise ValueError(set(states))
            yield clock.wall

    def _read(self, ids: list[str], index: int) -> str:
        return str(self._app.AsyncResult(ids[index]).state)

    def _reconnect(self) -> Iterator[float]:
        """From the loss of all connections, at which moment the result is stored."""
        task_id = uuid()
        time.sleep(max(self._lost + self._apart - time.perf_counter(), 0))
        spawn(self._lose, task_id)
        self._check(self._app.AsyncResult(task_id))
        yield time.perf_counter() - self._lost

    def _lose(self, task_id: str) -> None:
        time.sleep(LEAD)
        self._link.reset()
        self._lost = time.perf_counter()
        self._store({task_id: VALUE})

    def _stored(self, count: int) -> list[str]:
        """So many ids of tasks whose results are stored, or, over RabbitMQ, have come."""
        ids = [uuid() for _ in range(count + 1)]
        self._store(dict.fromkeys(ids, VALUE))
        self._check(self._app.AsyncResult(ids.pop()))  # which comes after them
        return ids

    def _check(self, result: Any) -> None:
        if result.get(timeout=PATIENCE) != VALUE:
            raise ValueError(result.id)

    def _crowd(self, count: int, function: Callable[[int], Any]) -> list[Any]:
        """What so many greenlets return at once; what one has raised is raised."""
        outcomes = crowd(count, function)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return outcomes


def _set(event: threading.Event, result: Any) -> None:
    event.set()


def _milliseconds(times: Iterator[float]) -> float:
    """The median of *times*, of which there are no more once they took long.

    The lower one of two: the first read of states opens connections.
    """
    deadline = time.perf_counter() + LONG
    taken = []
    for seconds in times:
        taken.append(seconds)
        if time.perf_counter() > deadline:
            break
    return median_low(taken) * 1e3


def far(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    """Milliseconds of each operation, by its name and the delay."""
    if what.contender == "limit":
        return _ping(addresses)
    with answerer(what, addresses):
        several = Far(what, addresses)
        figures = several.measure()
    return {"failed": sum(several.errors.values()), "errors": several.errors, **figures}


def _ping(addresses: dict[str, str]) -> dict[str, Any]:
    """What the link makes of the shortest command."""
    link, client = Control(int(addresses["link"])), redis.Redis.from_url(addresses["far"])

    def pings() -> Iterator[float]:
        for _ in range(4 * REPEATED):
            clock = Clock()
            client.ping()
            yield clock.stop().wall

    figures = {}
    for delay in DELAYS:
        link.tell(f"delay {delay / 1e3}")
        figures[f"ping {delay}"] = _milliseconds(pings())
    return {"failed": 0, **figures}
