"""Metrics for Prometheus, of this process: needs the extra ``prometheus``. To register them::

from celery_green_drain.prometheus import Collector
from prometheus_client import REGISTRY

REGISTRY.register(Collector(app))
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector as BaseCollector

from .addresses import result_address
from .figures import Histogram, Statistics
from .inspection.report import statistics

__all__ = ("Collector",)

#: How the name of each metric begins.
PREFIX = "celery_green_drain"

LABELS = ("app", "backend")


class Collector(BaseCollector):  # type: ignore[misc]
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
        ("outage", "Whether the connection is lost: 1 or 0.", figures.lost_at is not None),
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
