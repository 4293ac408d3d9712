"""The benchmarks work. What they show is for others: here each waits for twenty results only."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from benchmarks import extremes
from benchmarks.report import OWN_TABLES

from ..servers import Process


def test_each_case_works(tmp_path: Path) -> None:
    command = (
        sys.executable,
        "-m",
        "benchmarks",
        "--tiny",
        "--rounds",
        "1",
        "--out",
        str(tmp_path),
    )
    process = Process(*command)
    try:
        assert process.popen.wait(timeout=400) == 0, process.output()
    finally:
        process.end()
    measured = json.loads((tmp_path / "outcomes.json").read_text())
    assert {"drained", "stock", "tuned", "limit"} <= {what["contender"] for what in measured}
    failed = [what for what in measured if what["outcomes"][0]["failed"]]
    # Whatever plain Celery does: these are to work.
    assert [what for what in failed if what["contender"] not in ("stock", "tuned")] == []
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert len(lines) == 1 + len([what for what in measured if what["case"] not in OWN_TABLES])
    assert "<svg" in (tmp_path / "get.svg").read_text()
    served = {
        (what["case"], what["contender"]): what["outcomes"][0]
        for what in measured
        if what["case"] in ("fanin", "crowd") and what["store"] == "redis"
    }
    real, simulated = served["fanin", "drained"], served["crowd", "limit"]
    assert real["connections"] == simulated["connections"] == 1
    # What is simulated stores results as Celery does.
    assert round(real["alone commands"]) == simulated["alone commands"]
    for name in ("fanin", "sizing"):
        assert "Redis" in (tmp_path / f"{name}.csv").read_text()
    for name, cases in (("many", extremes.MANY), ("beside", extremes.LOADS)):
        assert len((tmp_path / f"{name}.csv").read_text().splitlines()) > len(cases)
    with (tmp_path / "far.csv").open(newline="") as file:
        far = list(csv.DictReader(file))
    assert {line["server"] for line in far} == {"Redis", "RabbitMQ", "PostgreSQL"}
    stored = [line for line in far if line["operation"] == "get() of a stored result"]
    # A look at a store takes its way there and back; what has come over RabbitMQ is here.
    trips = {line["server"]: float(line["20 ms: round trips"]) for line in stored}
    assert trips["RabbitMQ"] < 1 <= min(trips["Redis"], trips["PostgreSQL"])
