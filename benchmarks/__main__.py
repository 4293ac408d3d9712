"""The command: ``python -m benchmarks``, or ``scripts/benchmark``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.proxy import proxied
from tests.rabbitmq import RabbitServer
from tests.servers import OWNER, RedisServer, Worker
from tests.stores import PostgresServer

from . import plan, report
from .plan import Measurement

#: What the Redis servers are started with: nothing is written to disk, and all of Celery's
#: connections are let in.
OPTIONS = ("--appendonly", "no", "--maxclients", "20000")

#: Seconds after which a measurement is not made again, nor is one that fails: it is much the same
#: each time.
LONG = 20.0


def main() -> None:
    arguments = parse()
    plans = {
        "full": plan.full,
        "quick": plan.quick,
        "tiny": plan.tiny,
        "extremes": plan.extremes,
    }
    chosen = [
        what for what in plans[arguments.plan]() if all(w in str(what) for w in arguments.only)
    ]
    # The servers are to end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    outcomes = run(chosen, arguments.rounds)
    tables = report.tables(outcomes)
    for name in ("table", "far", "many", "beside", "goals"):
        if len(tables[name]) > 1:
            print(report.text(tables[name]))
    if arguments.out is not None:
        report.write(arguments.out, outcomes)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmark", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick", dest="plan", action="store_const", const="quick", help="a minute's choice"
    )
    size.add_argument(
        "--tiny", dest="plan", action="store_const", const="tiny", help="see that it works"
    )
    size.add_argument(
        "--extremes",
        dest="plan",
        action="store_const",
        const="extremes",
        help="very many waits, and round trips beside a heavy load",
    )
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured")
    parser.add_argument("--out", type=Path, help="the folder for tables, JSON and plots")
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="WORD", help="those with all these in their name"
    )
    parser.set_defaults(plan="full")
    return parser.parse_args()


def run(chosen: list[Measurement], rounds: int) -> dict[Measurement, list[dict[str, Any]]]:
    """Measure each of *chosen*, one after the other, and then all of them again."""
    outcomes: dict[Measurement, list[dict[str, Any]]] = {what: [] for what in chosen}
    done: set[Measurement] = set()
    with ExitStack() as started:
        store, broker = RedisServer(*OPTIONS), RedisServer(*OPTIONS)
        started.callback(store.end)
        started.callback(broker.end)
        addresses = {
            "redis": f"redis://127.0.0.1:{store.port}/0",
            "probe": f"redis://{OWNER}:{store.password}@127.0.0.1:{store.port}/0",
            "broker": f"redis://127.0.0.1:{broker.port}/0",
        }
        if any(what.store == "rabbitmq" for what in chosen):
            rabbit = RabbitServer()
            started.callback(rabbit.end)
            addresses["rabbitmq"] = rabbit.url()
            addresses["rabbitmq session"] = str(rabbit.process.popen.pid)
        if any(what.store == "postgresql" for what in chosen):
            postgres = PostgresServer()
            started.callback(postgres.end)
            addresses["postgresql"] = postgres.url("web")
        for number in range(rounds):
            for what in _turn(chosen):
                if what in done:
                    continue
                for server in (store, broker):
                    server.probe.flushall()
                begun = time.monotonic()
                with ExitStack() as helping:
                    if what.case == "worker":
                        worker = Worker(addresses["broker"], addresses["redis"], pool="solo")
                        helping.callback(worker.end)
                    if what.case == "far":
                        addresses.update(link(addresses[what.store], helping))
                    outcome = measure(what, addresses)
                outcomes[what].append(outcome)
                if outcome["failed"] or time.monotonic() - begun > LONG:
                    done.add(what)
                print(f"{number + 1}/{rounds} {what}: {report.summary(outcome)}", file=sys.stderr)
    return outcomes


def _turn(chosen: list[Measurement]) -> Iterator[Measurement]:
    """One round: some are made again once all were made, as a machine's speed varies slowly."""
    for time_in_round in range(max((what.times for what in chosen), default=0)):
        yield from (what for what in chosen if time_in_round < what.times)


def link(near: str, helping: ExitStack) -> dict[str, str]:
    """A link to the server that is *near*: the address there, and the port that controls it."""
    port = urlsplit(near).port
    assert port is not None
    proxy = helping.enter_context(proxied(port))
    return {"far": near.replace(f":{port}/", f":{proxy.port}/"), "link": str(proxy.control)}


def measure(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "benchmarks.measure",
            json.dumps(asdict(what)),
            json.dumps(addresses),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=3 * what.patience)
        outcome: dict[str, Any] = json.loads(output.splitlines()[-1])
        return outcome
    except subprocess.TimeoutExpired:
        return {"failed": what.count, "errors": {"no end": 1}}
    except IndexError:
        return {"failed": what.count, "errors": {errors.strip().splitlines()[-1]: 1}}
    finally:
        # Whatever it has started ends with it.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    main()
