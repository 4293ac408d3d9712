"""Metrics for Prometheus: needs the extra ``prometheus``. To register those of this process::

from celery_green_drain.prometheus import Collector
from prometheus_client import REGISTRY

REGISTRY.register(Collector(app))

Those of all processes of a server, in the multiprocess mode of ``prometheus_client``:
:func:`share`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import values
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector as BaseCollector

from . import exits
from .addresses import result_address
from .figures import Histogram, Statistics
from .inspection.report import statistics
from .signals import drainer_started

__all__ = ("Collector", "Shared", "share")

#: How the name of each metric begins.
PREFIX = "celery_green_drain"

LABELS = ("app", "backend")

#: Gauges of which the highest one of all processes is meant, and not the sum.
HIGHEST = {"oldest_wait_seconds", "outage", "outage_start_timestamp_seconds"}


class Collector(BaseCollector):
    """Collects the figures of *app* when it is asked. Labels: the app's name, and its store's kind.

    :param app: a Celery app. Where the package is off, there are no metrics.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    def describe(self) -> list[Metric]:
        """Nothing: an app is not to be looked at when it is only registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        figures = statistics(self._app)
        if figures.on:
            kind = result_address(self._app).partition(":")[0].partition(" ")[0]
            labels = [str(self._app.main or ""), kind]
            yield from _counters(figures, labels)
            yield from _gauges(figures, labels)
            yield _histogram("wait", "From a wait's begin to its result.", figures.waits, labels)
            yield _histogram(
                "lag",
                "From a task's end to the delivery.",
                figures.lag,
                labels,
            )


def _counters(figures: Statistics, labels: list[str]) -> Iterator[Metric]:
    outcomes = {
        "result": figures.delivered - figures.failures,
        "failure": figures.failures,
    }
    yield _family("results", "Results that were handed over.", labels, "outcome", outcomes)
    ended = {"timeout": figures.timeouts, "stopped": figures.stopped}
    yield _family("waits_ended", "Waits that ended without a result.", labels, "outcome", ended)
    calls = {
        "returned": figures.callbacks_run - figures.callbacks_raised,
        "raised": figures.callbacks_raised,
        "given_up": figures.given_up,
    }
    yield _family("callbacks", "Callbacks that have ended.", labels, "outcome", calls)
    for name, text, value in (
        ("lookups", "Times that the store was asked for results.", figures.lookups),
        ("unreadable", "Messages that could not be read.", figures.unreadable),
        ("evicted", "Results that were dropped unasked for.", figures.evicted),
        ("connects", "Times that connections were opened.", figures.connects),
        ("outages", "Times that the connection was lost.", figures.outages),
        ("outage_seconds", "Seconds of outages that are over.", figures.outage_seconds),
    ):
        family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=LABELS)
        family.add_metric(labels, value)
        yield family


def _family(
    name: str, text: str, labels: list[str], label: str, values: dict[str, int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=(*LABELS, label))
    for value, count in values.items():
        family.add_metric([*labels, value], count)
    return family


def _gauges(figures: Statistics, labels: list[str]) -> Iterator[Metric]:
    for name, text, value in (
        ("pending", "Tasks that are waited for.", figures.pending),
        ("callbacks_pending", "Results that are to call back.", figures.callbacks_pending),
        ("callbacks_running", "Callbacks that run now.", figures.callbacks_running),
        ("oldest_wait_seconds", "Age of the oldest wait.", figures.oldest or 0.0),
        ("connections", "Connections that the drainer holds.", figures.connections),
        ("subscriptions", "Channels that are subscribed to.", figures.subscriptions),
        ("outage", "Whether the connection is lost: 1 or 0.", figures.lost_at is not None),
        ("outage_start_timestamp_seconds", "When it was lost; 0: it is not.", figures.lost_at or 0),
    ):
        family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=LABELS)
        family.add_metric(labels, float(value))
        yield family


def _histogram(name: str, text: str, values: Histogram, labels: list[str]) -> Metric:
    family = HistogramMetricFamily(f"{PREFIX}_{name}_seconds", text, labels=LABELS)
    total, buckets = 0, []
    for bound, count in zip((*map(str, values.bounds), "+Inf"), values.counts):
        total += count
        buckets.append((bound, total))
    family.add_metric(labels, buckets, sum_value=values.sum)
    return family


# -- the multiprocess mode


def share(app: Any, interval: float = 1.0) -> Shared:
    """Have each process that waits for results of *app* write its metrics for all to be summed.

    In the multiprocess mode of ``prometheus_client``, whose ``MultiProcessCollector`` reads them.
    Call it once, before or after the server forks. From the first wait in a process on they are
    written each *interval* seconds, and when the process ends.

    :raises ValueError: where ``PROMETHEUS_MULTIPROC_DIR`` was not set in time.
    """
    if values.ValueClass is values.MutexValue:
        raise ValueError(
            "PROMETHEUS_MULTIPROC_DIR is not set, or was set after prometheus_client was imported: "
            "set it to a folder of its own in the environment of the server."
        )
    shared = Shared(app, interval)
    drainer_started.connect(shared.follow, sender=app, weak=False)
    exits.register_last(shared.end)
    return shared


class Shared:
    """Writes the metrics of *app* where ``MultiProcessCollector`` finds them. See :func:`share`."""

    def __init__(self, app: Any, interval: float) -> None:
        self._app = app
        self._interval = interval
        self._writers: dict[int, _Writer] = {}
        #: The thread that writes now; None: no drainer has begun so far.
        self._follower: threading.Thread | None = None

    def write(self) -> None:
        """Write what this process has counted by now. Any thread may, at any time."""
        # A child writes what it has counted itself, from its own beginning.
        writer = self._writers.setdefault(os.getpid(), _Writer())
        writer.write(Collector(self._app).collect())

    def end(self) -> None:
        """Write for the last time, unless no drainer has begun: it is too late to make one."""
        if self._follower is not None:
            self.write()

    def follow(self, **_: Any) -> None:
        """Write again and again, beside the caller, until the drainer ends."""
        name = "celery_green_drain metrics"
        self._follower = threading.Thread(target=self._follow, daemon=True, name=name)
        self._follower.start()

    def _follow(self) -> None:
        # One of them only, where the drainer is stopped and begins again meanwhile.
        while self._follower is threading.current_thread() and statistics(self._app).running:
            time.sleep(self._interval)
            self.write()


class _Writer:
    """What one process has written so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: By what tells a sample from others: its value as prometheus_client keeps it, and ours.
        self._written: dict[Any, tuple[Any, float]] = {}

    def write(self, families: Iterator[Metric]) -> None:
        with self._lock:
            for family in families:
                for name, labels, amount in _amounts(family):
                    self._set(family, name, labels, amount)

    def _set(self, family: Metric, name: str, labels: dict[str, str], amount: float) -> None:
        key = name, *labels.values()
        value, before = self._written.get(key) or (_value(family, name, labels), 0.0)
        if family.type == "gauge":
            value.set(amount)
        else:
            # An earlier process of the same number may have left something there.
            value.inc(amount - before)
        self._written[key] = value, amount


def _amounts(family: Metric) -> Iterator[tuple[str, dict[str, str], float]]:
    """The samples of *family* as the files hold them: each bucket with what is in it alone."""
    below = 0.0
    for sample in family.samples:
        if "le" in sample.labels:
            yield sample.name, sample.labels, sample.value - below
            below = sample.value
        elif not sample.name.endswith("_count"):  # which is made of the buckets
            yield sample.name, sample.labels, sample.value


def _value(family: Metric, name: str, labels: dict[str, str]) -> Any:
    mode = "livemax" if name[len(PREFIX) + 1 :] in HIGHEST else "livesum"
    return values.ValueClass(
        family.type,
        family.name,
        name,
        list(labels),
        list(labels.values()),
        family.documentation,
        multiprocess_mode=mode,
    )
