"""Run an example: its web server, a Celery worker and a Redis, all private to it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from celery_green_drain.demo.processes import Child, Children, DemoError, Interrupt, Interrupted
from celery_green_drain.demo.servers import answers, listen, start_redis

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Example:
    folder: str
    #: The module of its Celery app.
    celery: str
    #: What Python runs for the web server, on PORT.
    web: str
    #: What Python runs before.
    prepare: str = ""


GUNICORN = "-m gunicorn --worker-class gevent --graceful-timeout 2 --bind 127.0.0.1:PORT"

EXAMPLES = {
    "flask_progress": Example("flask_progress", "tasks", f"{GUNICORN} web:web"),
    "django_results": Example(
        "django_results", "shop", f"{GUNICORN} shop.wsgi", "manage.py migrate --verbosity 0"
    ),
    "flask_socketio": Example("flask_socketio", "tasks", "serve_gevent.py PORT"),
    "flask_socketio_eventlet": Example("flask_socketio", "tasks", "serve_eventlet.py PORT"),
}


def main() -> int:
    interrupt = Interrupt()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=EXAMPLES)
    parser.add_argument("--port", type=int, default=8000, help="0: a free one (%(default)s)")
    options = parser.parse_args()
    try:
        with Children(interrupt) as children:
            print(f"Starting {options.name} ...", flush=True)
            url = start(children, EXAMPLES[options.name], options.port)
            print(f"It runs at {url} (Ctrl-C ends it).", flush=True)
            children.watch()
    except DemoError as exc:
        print(exc, file=sys.stderr)
        return 1
    except Interrupted:
        return 0


def start(children: Children, example: Example, port: int) -> str:
    """Start all of it, wait until it answers, and return its address."""
    with listen("127.0.0.1", port) as listener:  # to see that it is free; closed again
        port = listener.getsockname()[1]
    folder = HERE / example.folder
    variables = {
        "REDIS_URL": start_redis(children).rpartition("/")[0],
        "DATABASE": str(children.folder / "db.sqlite3"),
        "XDG_RUNTIME_DIR": str(children.folder),  # gunicorn puts a control socket there
    }

    if example.prepare:
        command = [sys.executable, *example.prepare.split()]
        subprocess.run(command, cwd=folder, env={**os.environ, **variables}, check=True)

    def run(name: str, command: str) -> Child:
        return children.start(name, sys.executable, *command.split(), cwd=folder, **variables)

    options = "--concurrency 4 --loglevel INFO"
    worker = run("The Celery worker", f"-m celery -A {example.celery} worker {options}")
    web = run("The web server", example.web.replace("PORT", str(port)))
    url = f"http://127.0.0.1:{port}/"
    children.wait_for(worker, lambda: " ready." in worker.log())
    children.wait_for(web, lambda: answers(url))
    return url


if __name__ == "__main__":
    sys.exit(main())
