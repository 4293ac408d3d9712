"""How long after a result is stored its waiter wakes: this package against plain Celery.

    python -m benchmarks.polling_latency [COUNT]

Needs what the tests need (``scripts/test`` installs it). For each store, COUNT results (default
40) are waited for under gevent, each stored after a while of its own by another process, which
notes the time. Prints the median of the delays, and the table in ``docs/polled.rst``.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STORES = ("PostgreSQL", "SQLite", "memcached", "files", "Django ORM", "Django cache")

#: Seconds from the begin of a wait until its result is stored.
SOONEST, LATEST = 0.1, 3.0


def main(count: int = 40) -> None:
    from tests.stores import MemcachedServer, PostgresServer, configure_django

    postgres, memcached = PostgresServer(), MemcachedServer()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "files").mkdir()
        os.environ["DJANGO_SETTINGS_MODULE"] = "tests.django_settings"
        configure_django()
        urls = dict(
            zip(
                STORES,
                (
                    postgres.url("web"),
                    f"db+sqlite:///{folder}/results.sqlite3",
                    memcached.url(),
                    f"file://{folder}/files",
                    "green+django-db://",
                    "green+django-cache://",
                ),
            )
        )
        try:
            print(f"{'store':14} {'Celery':>8} {'drained':>8}   (median of {count}, in ms)")
            for name, url in urls.items():
                stock, drained = (measure(url, drainer, count) for drainer in ("", "gevent"))
                print(f"{name:14} {1000 * stock:8.0f} {1000 * drained:8.0f}", flush=True)
        finally:
            postgres.end()
            memcached.end()


def measure(url: str, drainer: str, count: int) -> float:
    """The median delay in seconds, between two processes of their own."""
    waiting = subprocess.run(
        [sys.executable, "-m", __spec__.name, "wait", url, drainer, str(count)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    delays: list[float] = json.loads(waiting.stdout)
    return statistics.median(delays)


def make_app(url: str, drainer: str = "") -> Any:
    from celery import Celery

    if "django" in url:
        import django

        django.setup()
    app = Celery(backend=url)
    app.conf.result_drainer = drainer or None
    return app


def wait(url: str, drainer: str, count: int) -> None:
    """Wait for results that another process stores; print the delays, as JSON."""
    import gevent
    from celery import uuid

    app = make_app(url, drainer)
    plan = {uuid(): random.uniform(SOONEST, LATEST) for _ in range(count)}
    storing = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, "store", url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert storing.stdin is not None
    assert storing.stdout is not None
    assert storing.stdout.readline() == "ready\n"
    woken: dict[str, float] = {}

    def get(task_id: str) -> None:
        app.AsyncResult(task_id).get(timeout=60)
        woken[task_id] = time.time()

    waits = [gevent.spawn(get, task_id) for task_id in plan]
    gevent.sleep(0)
    storing.stdin.write(json.dumps(plan))
    storing.stdin.close()
    gevent.joinall(waits, raise_error=True)
    stored = json.loads(storing.stdout.read())
    print(json.dumps([woken[task_id] - at for task_id, at in stored.items()]))


def store(url: str) -> None:
    """Store the results that are asked for, each in its time; print the times, as JSON."""
    app = make_app(url)
    app.backend.get_task_meta("warm")
    print("ready", flush=True)
    plan: dict[str, float] = json.load(sys.stdin)
    begun = time.time()
    stored = {}
    for task_id, after in sorted(plan.items(), key=lambda item: item[1]):
        time.sleep(max(0.0, begun + after - time.time()))
        app.backend.store_result(task_id, 1, "SUCCESS")
        stored[task_id] = time.time()
    print(json.dumps(stored))


if __name__ == "__main__":
    action, *arguments = sys.argv[1:] or ["40"]
    if action == "wait":
        from gevent import monkey

        monkey.patch_all()
        wait(arguments[0], arguments[1], int(arguments[2]))
    elif action == "store":
        store(*arguments)
    else:
        main(int(action))
