"""Metrics for Prometheus, as its own parser reads them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, uuid
from celery.exceptions import TimeoutError
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from celery_green_drain import statistics
from celery_green_drain.prometheus import PREFIX, Collector

from .green import MODE, wait_until
from .servers import UNMEASURED, RedisServer

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


SHARES = """
import sys
from celery import Celery
from celery_green_drain.prometheus import share
app = Celery("shop", broker="memory://", backend=sys.argv[1])
app.conf.result_drainer = "thread"
share(app)
"""


def run_sharing(program: str, url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run *program* with the multiprocess mode's files in *folder*."""
    return subprocess.run(
        [sys.executable, "-c", program, url],
        env={**UNMEASURED, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_process_that_shares_and_uses_no_result(results: RedisServer, tmp_path: Path) -> None:
    """It has nothing to write at its end, when it is too late to begin."""
    process = run_sharing(SHARES, results.url("shares"), tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


GIVES_UP = """
import sys, threading, time

from celery import Celery
from celery_green_drain.prometheus import share
app = Celery("shop", broker="memory://", backend=sys.argv[1])
app.conf.result_drainer = "thread"
app.conf.result_drainer_exit_timeout = 0.1
share(app, interval=0.2)
app.AsyncResult("never").then(print)
consumer = app.backend.result_consumer
for _ in range(20):
    consumer.stop()
    consumer.start()
until = time.monotonic() + 20
while sum(each.name.endswith("metrics") for each in threading.enumerate()) > 1:
    assert time.monotonic() < until, threading.enumerate()
    time.sleep(0.1)
"""


def test_what_a_process_gives_up_at_its_end_is_written(
    results: RedisServer, tmp_path: Path
) -> None:
    process = run_sharing(GIVES_UP, results.url("gives up"), tmp_path)
    assert process.returncode == 0, process.stderr
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path))
    values = [
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.labels.get("outcome") == "given_up"
    ]
    assert values == [1.0]


def test_the_alerts_and_the_dashboard_name_metrics_that_there_are(app: Celery) -> None:
    app.backend.result_consumer.start()
    there = {f"{PREFIX}_{name.split()[0]}" for name in scraped(app)}
    rules = (DOCS / "alerts.yml").read_text()
    assert len(re.findall("- alert:", rules)) == 5
    for text in (rules, " ".join(expressions())):
        assert set(re.findall(rf"\b{PREFIX}_\w+", text)) <= there


def expressions() -> list[str]:
    """All that the dashboard asks Prometheus for."""
    panels = json.loads((DOCS / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_dashboard_is_one_to_grafana() -> None:
    """Grafana's own model reads it, and loses nothing of what its panels say."""
    text = json.loads((DOCS / "dashboard.json").read_text())
    board = json.loads(JSONEncoder().encode(Dashboard.from_json(text)))
    assert board["title"] == "celery_green_drain"
    assert [each["name"] for each in board["templating"]["list"]] == ["datasource", "app"]
    kept = ("id", "type", "title", "gridPos", "fieldConfig", "targets")
    assert len(board["panels"]) == 10
    for panel, read in zip(text["panels"], board["panels"]):
        assert {key: read[key] for key in kept} == {key: panel[key] for key in kept}


@pytest.mark.skipif(MODE != "unpatched", reason="promtool is a process of its own")
def test_promtool_accepts_all_of_it(app: Celery, store: Callable[..., str], tmp_path: Path) -> None:
    promtool("check", "rules", str(DOCS / "alerts.yml"))
    promtool("test", "rules", str(Path(__file__).with_name("alerts_test.yml")))
    rules = [
        {"record": f"panel_{number}", "expr": expr.replace("$__rate_interval", "5m")}
        for number, expr in enumerate(expressions())
    ]
    file = tmp_path / "dashboard.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(file))
    assert app.AsyncResult(store(1)).get(timeout=20) == 1
    registry = CollectorRegistry()
    registry.register(Collector(app))
    promtool("check", "metrics", given=generate_latest(registry).decode())


def promtool(*arguments: str, given: str = "") -> None:
    process = subprocess.run(
        [shutil.which("promtool") or str(Path(sys.prefix) / "bin" / "promtool"), *arguments],
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stdout


@pytest.mark.skipif(MODE != "unpatched", reason="one mode is enough for a recipe")
def test_the_recipe_for_opentelemetry(app: Celery, store: Callable[..., str]) -> None:
    """As the docs print it."""
    assert app.AsyncResult(store(1)).get(timeout=20) == 1
    page = (DOCS / "monitoring.rst").read_text()
    blocks = re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", page)
    (recipe,) = (textwrap.dedent(block) for block in blocks if "opentelemetry" in block)
    reader = InMemoryMetricReader()
    set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
    exec(recipe, {"app": app})
    data = reader.get_metrics_data()
    assert data is not None
    told = {
        metric.name: metric.data.data_points[0].value
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert told == {
        "celery_green_drain.delivered": 1,
        "celery_green_drain.timeouts": 0,
        "celery_green_drain.outages": 0,
        "celery_green_drain.pending": 0,
        "celery_green_drain.callbacks_running": 0,
        "celery_green_drain.connections": 1,
    }
