"""Metrics for Prometheus, as its own parser reads them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, uuid
from celery.exceptions import TimeoutError
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from celery_green_drain import statistics
from celery_green_drain.prometheus import PREFIX, Collector

from .green import wait_until

DOCS = Path(__file__).parent.parent / "docs"


def scraped(app: Celery) -> dict[str, Any]:
    """The samples, by their names and the labels that differ."""
    registry = CollectorRegistry()
    registry.register(Collector(app))
    samples = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        assert family.documentation.endswith(".")
        for sample in family.samples:
            labels = dict(sample.labels)
            assert (labels.pop("app"), labels.pop("backend")) == ("tests", "redis")
            samples[" ".join([sample.name[len(PREFIX) + 1 :], *labels.values()])] = sample.value
    return samples


def test_what_is_scraped(app: Celery, store: Callable[..., str]) -> None:
    app.AsyncResult(store(1)).get(timeout=20)
    with pytest.raises(ValueError, match="on purpose"):
        app.AsyncResult(store(ValueError("on purpose"), "FAILURE")).get(timeout=20)
    with pytest.raises(TimeoutError):
        app.AsyncResult(uuid()).get(timeout=0.1)
    app.AsyncResult(store(2)).then(lambda result: 1 / 0)
    app.AsyncResult(uuid()).then(lambda result: None)
    wait_until(
        lambda: (
            statistics(app).timeouts
            and statistics(app).callbacks_run
            and statistics(app).pending == 1
        ),
        "the end of all but one",
    )
    samples = scraped(app)
    assert samples["results_total result"] == 2
    assert samples["results_total failure"] == 1
    assert samples["waits_ended_total timeout"] == 1
    assert samples["callbacks_total raised"] == 1
    assert samples["callbacks_total returned"] == 0
    assert samples["wait_seconds_count"] == samples["wait_seconds_bucket +Inf"] == 3
    assert samples["wait_seconds_sum"] > 0
    assert samples["pending"] == samples["callbacks_pending"] == 1
    assert samples["oldest_wait_seconds"] > 0
    assert samples["connects_total"] == 1
    assert samples["outage"] == 0


def test_an_app_that_is_off_has_no_metrics() -> None:
    assert scraped(Celery(backend="redis://")) == {}


def test_the_alerts_name_metrics_that_there_are(app: Celery) -> None:
    app.backend.result_consumer.start()
    there = {f"{PREFIX}_{name.split()[0]}" for name in scraped(app)}
    rules = (DOCS / "alerts.yml").read_text()
    named = set(re.findall(rf"\b{PREFIX}_\w+", rules))
    assert len(re.findall("- alert:", rules)) == 5
    assert named <= there
