"""What is measured: each line of the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

__all__ = ("Measurement", "extremes", "full", "quick", "tiny")


@dataclass(frozen=True)
class Measurement:
    """One case, for one contender, with so many at once."""

    #: A function of ``waits.py``, ``trips.py``, ``limits.py``, ``fanin.py``, ``crowd.py``,
    #: ``far.py``, ``many.py`` or ``fairness.py``.
    case: str
    #: drained: this package; stock: Celery as it comes; tuned: Celery with a shared backend and
    #: a large pool; limit: the protocol or the green library alone.
    contender: str
    library: str
    store: str
    #: Waits, or the processes that wait.
    count: int
    #: Seconds that whoever waits waits for a result at most.
    patience: float = 60.0
    #: Seconds that all have waited for before the first result comes; or from one loss of the
    #: connections to the next, so that none is part of the same outage.
    settle: float = 2.0
    #: How often what is repeated is repeated, as a share of the usual.
    effort: float = 1.0
    #: How often it is made in each round: what is short varies most.
    times: int = 1

    def __str__(self) -> str:
        return f"{self.case} {self.contender} {self.library} {self.store} {self.count}"


def full() -> list[Measurement]:
    """All that the documentation shows."""
    everything = [*_limits(), *_waits(), *_trips(), *_others(), *_processes(), *_far()]
    return [replace(what, times=2) if _is_short(what) else what for what in everything]


def _is_short(what: Measurement) -> bool:
    """Whether *what* takes so little time that it varies most, and is compared with such."""
    cases = ("messages", "wake", "loop", "get", "then")
    ours = what.contender in ("drained", "limit")
    return ours and what.case in cases and what.count in (1000, 10_000)


def quick() -> list[Measurement]:
    """What a change of the drain loop shows in."""
    return [
        Measurement("messages", "limit", "gevent", "redis", 10_000),
        Measurement("messages", "limit", "gevent", "rabbitmq", 10_000),
        *(Measurement("wake", "limit", "gevent", "", count) for count in (1000, 10_000)),
        *(Measurement("loop", "limit", "gevent", "redis", count) for count in (1000, 10_000)),
        Measurement("loop", "limit", "gevent", "rabbitmq", 10_000),
        Measurement("register", "limit", "gevent", "redis", 10_000),
        *(Measurement("get", "drained", "gevent", "redis", count) for count in (1000, 10_000)),
        Measurement("then", "drained", "gevent", "redis", 10_000),
        Measurement("get", "drained", "gevent", "rabbitmq", 10_000),
        Measurement("then", "drained", "gevent", "rabbitmq", 10_000),
    ]


def extremes() -> list[Measurement]:
    """Very many waits, and round trips beside a heavy load."""
    many = [("thens", 10_000), ("thens", 100_000), ("thens", 1_000_000)]
    many += [("gets", 10_000), ("gets", 100_000), ("groups", 1_000_000)]
    loads = ("quiet", "results", "states", "large", "burst")
    # Plain Celery has no then() that calls by itself, so nobody is there to get most of it.
    bearers = [*((load, "drained") for load in loads), ("quiet", "tuned"), ("states", "tuned")]
    return [
        *(Measurement(case, "drained", "gevent", "redis", n, patience=200.0) for case, n in many),
        *(Measurement(load, bearer, "gevent", "redis", 1) for load, bearer in bearers),
    ]


def tiny() -> list[Measurement]:
    """Each case once for each contender and library, so small that it shows only that they work."""
    chosen: dict[tuple[str, ...], Measurement] = {}
    for what in (*full(), *extremes()):
        if what.case == "far" and what.contender in ("stock", "tuned"):
            continue  # which would take longest, and runs nothing that is not run without it
        store = "" if what.contender in ("stock", "tuned") else what.store
        chosen.setdefault((what.case, what.contender, what.library, store), what)
    small = {"count": 20, "patience": 20.0, "settle": 0.1, "effort": 0.1, "times": 1}
    processes = {**small, "count": 2, "effort": 0.02}
    return [
        replace(what, **(processes if what.case == "fanin" else small))  # type: ignore[arg-type]
        for what in chosen.values()
    ]


def _limits() -> Iterator[Measurement]:
    for store in ("redis", "rabbitmq"):
        yield Measurement("messages", "limit", "gevent", store, 10_000)
    yield Measurement("messages", "limit without hiredis", "gevent", "redis", 10_000)
    for count in (100, 1000, 10_000, 50_000):
        yield Measurement("wake", "limit", "gevent", "", count)
    yield Measurement("wake", "limit", "eventlet", "", 10_000)
    for count in (100, 1000, 10_000, 50_000):
        yield Measurement("loop", "limit", "gevent", "redis", count)
    for count in (100, 1000, 10_000):
        yield Measurement("loop", "limit", "gevent", "rabbitmq", count)
    yield Measurement("register", "limit", "gevent", "redis", 10_000)


def _waits() -> Iterator[Measurement]:
    for count in (100, 1000, 10_000, 50_000):
        yield Measurement("get", "drained", "gevent", "redis", count)
    for count in (100, 1000):
        yield Measurement("get", "stock", "gevent", "redis", count)
    yield Measurement("get", "stock", "gevent", "redis", 10_000, patience=30)
    for count in (100, 1000, 4000):
        yield Measurement("get", "tuned", "gevent", "redis", count)
    yield Measurement("get", "tuned", "gevent", "redis", 10_000, patience=10)
    for count in (100, 1000, 10_000):
        yield Measurement("get", "drained", "gevent", "rabbitmq", count)
    for count in (100, 1000):
        yield Measurement("get", "stock", "gevent", "rabbitmq", count, patience=10)
    for count in (1000, 10_000, 50_000):
        yield Measurement("then", "drained", "gevent", "redis", count)
    for contender in ("stock", "tuned"):
        yield Measurement("then", contender, "gevent", "redis", 10_000)
    yield Measurement("then", "drained", "gevent", "rabbitmq", 10_000)
    yield Measurement("then", "stock", "gevent", "rabbitmq", 10_000, patience=10)
    for case in ("get", "then"):
        for store in ("redis", "rabbitmq"):
            yield Measurement(case, "drained", "eventlet", store, 10_000)


def _trips() -> Iterator[Measurement]:
    for count in (1, 50, 500):
        for contender in ("drained", "tuned"):
            yield Measurement("trip", contender, "gevent", "redis", count)
        for contender in ("drained", "stock"):
            yield Measurement("trip", contender, "gevent", "rabbitmq", count)
        yield Measurement("worker", "drained", "gevent", "redis", count)
    for contender in ("drained", "tuned"):
        yield Measurement("requests", contender, "gevent", "redis", 5000)


def _others() -> Iterator[Measurement]:
    yield Measurement("idle", "drained", "gevent", "redis", 10_000)
    yield Measurement("growth", "drained", "gevent", "redis", 10_000)


def _processes() -> Iterator[Measurement]:
    for count in (1, 5, 20):
        yield Measurement("fanin", "drained", "gevent", "redis", count)
    # A fifth of the results: each leaves two connections.
    yield Measurement("fanin", "stock", "gevent", "redis", 5, effort=0.2)
    for count in (1000, 10_000):
        yield Measurement("crowd", "limit", "unpatched", "redis", count)
    for count in (1, 10):
        yield Measurement("fanin", "drained", "gevent", "rabbitmq", count)


def _far() -> Iterator[Measurement]:
    yield Measurement("far", "limit", "gevent", "redis", 1)
    contenders = {
        "redis": ("drained", "stock", "tuned"),
        "rabbitmq": ("drained", "stock"),
        "postgresql": ("drained", "stock"),
    }
    for store, several in contenders.items():
        # PostgreSQL lets a hundred connections in, and plain Celery opens one for each read.
        count = 50 if store == "postgresql" else 500
        for contender in several:
            yield Measurement("far", contender, "gevent", store, count, settle=1.2)
