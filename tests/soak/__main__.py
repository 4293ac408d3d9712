"""Run it: see ``scripts/soak --help``."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack, suppress
from typing import Any

from ..green import wait_until
from ..proxy import proxied
from ..rabbitmq import RabbitServer
from ..servers import Process, RedisServer, Worker, free_port
from .faults import Faults, RabbitFaults, RedisFaults, children, named
from .ledger import PATIENCE, Balance, books, table

#: Requests that are made at once to each web server.
CLIENTS = 12

KINDS: dict[str, type[Faults]] = {"redis": RedisFaults, "rpc": RabbitFaults}

#: Web processes of gunicorn.
WORKERS = 3


def main() -> int:
    options = arguments()
    faults = named(KINDS[options.backend])
    if unknown := set(options.faults or ()) - faults.keys():
        sys.exit(f"No fault {', '.join(unknown)}; there are: {', '.join(faults)}.")
    random.seed(options.seed)
    with ExitStack() as stack:
        soak = Soak(stack, options.backend)
        done = soak.run(options.minutes * 60, options.faults or list(faults), options.pause)
        print(f"\n{options.backend}, {options.minutes:g} minutes, {sum(done.values())} faults\n")
        for name, count in sorted(done.items()):
            print(f"{count:4}  {faults[name].__doc__}")
        return soak.report()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description="Send tasks from several web processes while servers, network and processes "
        "fail, and account for every result. Exits 1 where one is missing, doubled or wrong.",
    )
    parser.add_argument("--backend", choices=KINDS, default="redis")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--pause", type=float, default=8, help="seconds between two faults")
    parser.add_argument("--faults", nargs="+", metavar="FAULT", help="these only")
    parser.add_argument("--seed", type=int, default=None)
    return parser.parse_args()


class Soak:
    """The servers, the worker, the web processes, and those who ask them."""

    def __init__(self, stack: ExitStack, backend: str) -> None:
        self.folder = stack.enter_context(tempfile.TemporaryDirectory())
        self.answers: Counter[str] = Counter()
        self.over = threading.Event()
        if backend == "redis":
            results = RedisServer("--appendfsync", "always")
            # Not harmed: what Celery's transport loses of its tasks is not the question here.
            broker = RedisServer()
            stack.callback(broker.end)
            proxy = stack.enter_context(proxied(results.port))
            urls = broker.url(), results.url("worker"), broker.url()
            passing = results.url("web", port=proxy.port)
            pool = "threads"
        else:
            results = RabbitServer()
            proxy = stack.enter_context(proxied(results.port))
            urls = results.url(), "rpc://", results.url(proxy.port)
            passing = "rpc://"
            # Celery's thread pool keeps tasks to itself after an outage of RabbitMQ.
            pool = "prefork"
        stack.callback(results.end)
        worker = Worker(urls[0], urls[1], persistent=True, pool=pool)
        stack.callback(worker.end)
        environment = {
            "SOAK_BROKER": urls[0],
            "SOAK_RESULTS": passing,
            "SOAK_BROKER_READ": urls[2],
            "SOAK_FOLDER": self.folder,
        }
        self.sites: dict[str, tuple[Process, str]] = {}
        for name in ("gevent", "eventlet"):
            port = free_port()
            process = Process(
                *(sys.executable, "-m", *SERVERS[name](port)),
                SOAK_NAME=name,
                TESTS_MODE=name,
                **environment,
            )
            stack.callback(process.end)
            self.sites[name] = process, f"http://127.0.0.1:{port}"
        for _, url in self.sites.values():
            wait_until(lambda url=url: self._state(url), f"the web server at {url}", timeout=60)
        self.faults = KINDS[backend](results, proxy, self.sites["gevent"][0])

    def _state(self, url: str) -> Any:
        try:
            with urllib.request.urlopen(f"{url}/state", timeout=10) as response:
                return json.load(response)
        except OSError:
            return None

    def run(self, seconds: float, names: list[str], pause: float) -> Counter[str]:
        """Ask and harm for so long; then wait until each request has its answer."""
        urls = [url for _, url in self.sites.values()]
        clients = [threading.Thread(target=self._ask, args=[url]) for url in urls * CLIENTS]
        for client in clients:
            client.start()
        done: Counter[str] = Counter()
        try:
            time.sleep(2)
            self._harm(time.monotonic() + seconds, names, pause, done)
        finally:
            self.over.set()
            for client in clients:
                client.join()
        return done

    def _harm(self, end: float, names: list[str], pause: float, done: Counter[str]) -> None:
        faults = named(self.faults)
        round_: list[str] = []
        while time.monotonic() < end:
            round_ = round_ or random.sample(names, len(names))  # each once, before any again
            name = round_.pop()
            print(f"{time.strftime('%H:%M:%S')}  {name}", flush=True)
            faults[name](random.uniform(0.1, pause))
            done[name] += 1
            time.sleep(random.uniform(0, pause))

    def _ask(self, url: str) -> None:
        while not self.over.is_set():
            try:
                with urllib.request.urlopen(url, timeout=PATIENCE * 2) as response:
                    answer = json.load(response)
            except OSError as exc:
                answer = {"error": f"no answer: {exc}"}
                time.sleep(0.1)
            self.answers[answer.get("error", "fine")] += 1
            time.sleep(random.random() / 2)

    def report(self) -> int:
        """Print the ledger; return the exit code."""
        print("\nanswers of the web processes:")
        for answer, count in self.answers.most_common(12):
            print(f"{count:6}  {answer:.120}")
        left = [self._state(url) for _, url in self.sites.values() for _ in range(WORKERS * 3)]
        idle = all(state and state["pending"] == 0 and state["loops"] <= 1 for state in left)
        outputs = []
        for process, _ in self.sites.values():
            process.popen.send_signal(signal.SIGTERM)
            wait_until(lambda process=process: _has_ended(process), "its end", 60)
            outputs.append(process.output())
        rows: dict[str, Balance] = {}
        for name, balance in books(self.folder):
            rows[name] = rows.get(name, Balance()) + balance
        print(f"\n{table(rows)}\n")
        silent = not any("Exception ignored" in output for output in outputs)
        for problem, fine in (
            ("The ledger does not balance.", all(row.balances for row in rows.values())),
            (f"Something is left in a process: {left}", idle),
            ("A process has complained:\n" + "\n".join(outputs), silent),
        ):
            if not fine:
                print(problem)
        return 0 if silent and idle and all(row.balances for row in rows.values()) else 1


SERVERS = {
    "gevent": lambda port: (
        *("gunicorn", "--worker-class", "gevent", "--workers", str(WORKERS)),
        *("--bind", f"127.0.0.1:{port}", "--graceful-timeout", str(PATIENCE), "--timeout", "60"),
        "tests.soak.site:application",
    ),
    "eventlet": lambda port: ("tests.soak.serve", str(port)),
}


def _has_ended(process: Process) -> bool:
    # gunicorn tells its workers once, and one that is just starting takes no notice of it.
    for child in children(process):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
    return process.popen.poll() is not None


if __name__ == "__main__":
    sys.exit(main())
