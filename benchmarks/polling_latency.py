"""How long after a result is stored its waiter wakes: this package against plain Celery.

    .venv-stores/bin/python -m benchmarks.polling_latency [COUNT [STORE...]]

Needs what the tests of the stores need (``scripts/test stores`` installs it). For each store, COUNT
results (default 40) are waited for under gevent, each stored after a while of its own by another
process, which notes the time. Prints the median of the delays, and how many requests a second the
server gets while 1, 100 and 10,000 results are waited for in vain. These are the tables in
``docs/stores.rst``.
"""

from __future__ import annotations

import json
import os
import random
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: Seconds from the begin of a wait until its result is stored.
SOONEST, LATEST = 0.1, 3.0

#: How many wait while requests are counted, and for how many seconds.
CROWDS, COUNTED = (1, 100, 10_000), 4.0

#: Where they are counted: other servers do not tell, or are no servers.
COUNTING = ("mongodb", "couchdb", "dynamodb, moto", "postgresql", "s3", "azure", "google")

#: Where there is a request for each result, so that the time for one look is all that 10,000 show.
SINGLY = ("s3", "azure", "google")

#: What a process needs to know of a store: ``result_backend``, and further settings.
Store = tuple[str, dict[str, Any]]


def main(count: int = 40, *names: str) -> None:
    from tests.services.servers import kinds, others
    from tests.stores import configure_django

    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.django_settings"
    print(f"{'store':22} {'Celery':>8} {'drained':>8}   (median of {count}, in ms)   requests/s")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "files").mkdir()
        configure_django()
        local = {
            "sqlite": f"db+sqlite:///{folder}/results.sqlite3",
            "files": f"file://{folder}/files",
            "django orm": "green+django-db://",
            "django cache": "green+django-cache://",
        }
        for name, url in local.items():
            if not names or name in names:
                compare(name, (url, {}), count)
    for name, kind in {**kinds(), **others()}.items():
        if names and name not in names:
            continue
        server = kind()
        os.environ.update(server.client_environment())
        try:
            compare(name, (server.url(), server.conf_for()), count, server)
        finally:
            server.end()


def compare(name: str, store: Store, count: int, server: Any = None) -> None:
    stock, drained = (measure(store, drainer, count) for drainer in ("", "gevent"))
    print(f"{name:22} {1000 * stock:8.0f} {1000 * drained:8.0f}", end="", flush=True)
    crowds = CROWDS[: 2 if name in SINGLY else 3] if name in COUNTING else ()
    for waiters in crowds:
        print(f"{load(store, waiters, server):8.1f}", end="", flush=True)
    print(flush=True)


def load(store: Store, waiters: int, server: Any) -> float:
    """Requests a second while so many wait in vain."""
    waiting = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, "idle", json.dumps(store), str(waiters)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert waiting.stdout is not None
    assert waiting.stdin is not None
    assert waiting.stdout.readline() == "waiting\n"
    before, begun = server.requests(), time.monotonic()
    time.sleep(COUNTED)
    asked, seconds = server.requests() - before, time.monotonic() - begun
    waiting.stdin.close()
    waiting.wait()
    return asked / seconds


def measure(store: Store, drainer: str, count: int) -> float:
    """The median delay in seconds, between two processes of their own."""
    waiting = subprocess.run(
        [sys.executable, "-m", __spec__.name, "wait", json.dumps(store), drainer, str(count)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    delays: list[float] = json.loads(waiting.stdout)
    return statistics.median(delays)


def make_app(store: str, drainer: str = "") -> Any:
    from celery import Celery

    url, conf = json.loads(store)
    if "django" in url:
        import django

        django.setup()
    app = Celery(backend=url)
    app.conf.update(conf, result_drainer=drainer or None)
    return app


def idle(store: str, waiters: int) -> None:
    """Wait for so many results that do not come, until the standard input ends."""
    from celery import uuid

    app = make_app(store, "gevent")
    for _ in range(waiters):
        app.AsyncResult(uuid()).then(print)
    consumer = app.backend.result_consumer
    while consumer.statistics().pending < waiters or not consumer.connections:
        time.sleep(0.1)
    time.sleep(3)  # the pauses grow to their full length
    print("waiting", flush=True)
    select.select([sys.stdin], [], [])  # a read would block all greenlets
    os._exit(0)


def wait(url: str, drainer: str, count: int) -> None:
    """Wait for results that another process stores; print the delays, as JSON."""
    import gevent
    from celery import uuid

    app = make_app(url, drainer)
    app.backend.get_state("warm")  # to make a backend takes its time, and is not what is measured
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
    if action in ("wait", "idle"):
        from gevent import monkey

        monkey.patch_all()
    if action == "wait":
        wait(arguments[0], arguments[1], int(arguments[2]))
    elif action == "idle":
        idle(arguments[0], int(arguments[1]))
    elif action == "store":
        store(*arguments)
    else:
        main(int(action), *arguments)
