"""What the demo consists of: a Redis, a Celery worker and a web server."""

from __future__ import annotations

import os
import resource
import secrets
import signal
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.error import URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import ProxyHandler, build_opener

from kombu import Connection

from .bundled import redis_server
from .processes import Child, Children, DemoError

__all__ = ("OPENER", "Site", "Stores", "answers", "listen", "start", "start_redis")

#: Asks the demo itself, past the proxy that the user may have for all else.
OPENER = build_opener(ProxyHandler({}))

#: Tasks that the worker runs at once.
CONCURRENCY = 8


@dataclass(frozen=True)
class Stores:
    """What tasks and results travel through."""

    #: ``redis`` or ``rpc``.
    backend: str = "redis"
    #: The URL of a broker that is there already.
    broker: str | None = None
    #: The URL of a Redis that is there already.
    redis: str | None = None


@dataclass(frozen=True)
class Site:
    """The demo as it runs."""

    url: str
    #: The database of the results; None: they come from the broker.
    results: str | None
    #: What the web processes call their connections to it.
    client_name: str


def start(
    children: Children,
    host: str,
    port: int,
    workers: int,
    preload: bool,
    stores: Stores,
    names: Iterable[str] = (),
    compare: bool = False,
) -> Site:
    """Start everything, and wait until it answers.

    :param names: by which it may be asked, besides its address and this machine's own names.
    :param compare: have a web process without the setting beside it.
    """
    with listen(host, port) as listener:
        broker, results = _urls(children, stores)
        client_name = f"celery-green-drain-demo-{os.getpid()}"
        celery = _start_celery(children, broker, results or "rpc://")
        stock = _start_stock(children, broker, results, client_name) if compare else ""
        gunicorn = _start_gunicorn(
            children,
            listener,
            workers,
            preload,
            broker,
            _named(results, client_name) if results else "rpc://",
            CELERY_GREEN_DRAIN_DEMO_REDIS_KEEPER=(
                "0" if results is None or stores.redis else str(os.getpid())
            ),
            CELERY_GREEN_DRAIN_DEMO_NAMES=",".join([host, *names]),
            CELERY_GREEN_DRAIN_DEMO_CLIENT=client_name,
            CELERY_GREEN_DRAIN_DEMO_STOCK=stock,
        )
        url = _url(host, listener.getsockname()[1])
    children.wait_for(celery, lambda: " ready." in celery.log())
    children.wait_for(gunicorn, lambda: answers(f"{url}/statistics"))
    return Site(url, results, client_name)


def _urls(children: Children, stores: Stores) -> tuple[str, str | None]:
    """The broker, and the database of the results; None: they come from the broker."""
    if stores.broker:
        _require_broker(stores.broker)
    elif stores.redis:
        _require(stores.redis)
    broker = stores.broker or stores.redis or start_redis(children)
    if stores.backend == "rpc":
        return broker, None
    if stores.redis:
        results = _next_database(stores.redis)
        _require(results)
        return broker, results
    return broker, _start_results(children)


def _require_broker(url: str) -> None:
    """:raises DemoError: if no broker that may be used answers there."""
    try:
        with Connection(url, connect_timeout=5) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
    except Exception as exc:  # whatever its transport raises
        raise DemoError(f"The broker cannot be used: {exc}") from exc


# -- Redis


def start_redis(children: Children) -> str:
    """Run the server that a package brings, and return its URL."""
    return _start_redis(children, "The Redis server")[1]


def _start_results(children: Children) -> str:
    """Run one for the results alone, which SIGUSR1 kills, and which then starts again.

    Not the broker's: a worker that loses a Redis which is its broker may hold tasks back for an
    hour. All that this one has answered is in its file, so it loses nothing when it is killed.
    """
    options = ("--appendonly", "yes", "--appendfsync", "no")
    child, url = _start_redis(children, "The Redis server of the results", *options)
    signal.signal(signal.SIGUSR1, lambda number, frame: child.kill())
    return url


def _start_redis(children: Children, name: str, *options: str) -> tuple[Child, str]:
    import redis

    server = redis_server()
    assert server
    # Without one, another user of this machine could have Redis write files as this one. In a file
    # of a folder that nobody else may read, as everybody sees what a process was started with.
    password = secrets.token_urlsafe(24)
    configuration = children.folder / f"redis-{secrets.token_hex(4)}.conf"
    configuration.write_text(f"requirepass {password}\n", encoding="utf-8")
    with listen("127.0.0.1", 0) as listener:  # to find a free port; closed again
        port = listener.getsockname()[1]
    child = children.start(
        name,
        server,
        str(configuration),
        *("--bind", "127.0.0.1", "--port", str(port)),
        *("--dir", str(children.folder), "--save", "", *options),
    )

    def pings() -> bool:
        try:
            return bool(probe.ping())
        except redis.ConnectionError:
            return False

    with redis.Redis(port=port, password=password) as probe:
        children.wait_for(child, pings)
    return child, f"redis://:{password}@127.0.0.1:{port}/0"


def _require(url: str) -> None:
    """:raises DemoError: if no Redis that may be used answers there."""
    import redis

    try:
        with redis.Redis.from_url(url) as probe:
            probe.ping()
    except (redis.RedisError, ValueError) as exc:
        raise DemoError(f"Redis cannot be used: {exc}") from exc


def _next_database(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{int(parts.path.strip('/') or 0) + 1}"))


def _named(url: str, client_name: str) -> str:
    parts = urlsplit(url)
    queries = [parts.query] if parts.query else []
    return urlunsplit(parts._replace(query="&".join([*queries, f"client_name={client_name}"])))


# -- Celery and gunicorn


def _start_celery(children: Children, broker: str, results: str) -> Child:
    return children.start(
        "The Celery worker",
        *(sys.executable, "-m", "celery", "-A", "celery_green_drain.demo.tasks", "worker"),
        # Not threads: with those, over Redis, Celery 5.6 was seen to pause for ten seconds.
        *("--pool", "prefork", "--concurrency", str(CONCURRENCY), "--loglevel", "INFO"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat", "--hostname", "demo@%h"),
        CELERY_GREEN_DRAIN_DEMO_BROKER=broker,
        CELERY_GREEN_DRAIN_DEMO_RESULTS=results,
    )


def _start_gunicorn(
    children: Children,
    listener: socket.socket,
    workers: int,
    preload: bool,
    broker: str,
    results: str,
    name: str = "The web server",
    **variables: str,
) -> Child:
    return children.start(
        name,
        *(sys.executable, "-m", "gunicorn", "celery_green_drain.demo.web:web"),
        *("--worker-class", "gevent", "--workers", str(workers)),
        *("--bind", f"fd://{listener.fileno()}", "--graceful-timeout", "2"),
        *(["--preload"] if preload else []),
        fds=(listener.fileno(),),
        cwd=None,
        CELERY_GREEN_DRAIN_DEMO_BROKER=broker,
        CELERY_GREEN_DRAIN_DEMO_RESULTS=results,
        **variables,
        # Newer versions put a control socket there, or else in the home directory.
        XDG_RUNTIME_DIR=str(children.folder),
    )


def _start_stock(children: Children, broker: str, results: str | None, client_name: str) -> str:
    """Start a web process without the setting; return its URL, which the other one alone asks."""
    assert results
    client_name += "-stock"
    _allow_files()
    with listen("127.0.0.1", 0) as listener:
        gunicorn = _start_gunicorn(
            children,
            listener,
            1,
            False,
            broker,
            _named(results, client_name),
            "The web server without the setting",
            CELERY_GREEN_DRAIN_DEMO_CLIENT=client_name,
            CELERY_GREEN_DRAIN_DEMO_IS_STOCK="1",
        )
        url = _url("127.0.0.1", listener.getsockname()[1])
    children.wait_for(gunicorn, lambda: answers(f"{url}/"))
    return url


def _allow_files() -> None:
    """Let processes open as many files as they may: plain Celery has two connections a request."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def listen(host: str, port: int) -> socket.socket:
    """Taken here, so that a port in use is known at once, and 0 for a free one is safe."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as exc:
        reason = str(exc.strerror).partition(" (")[0]
        raise DemoError(f"Cannot listen on {host}, port {port}: {reason}.") from exc


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def answers(url: str) -> bool:
    """Whether a page is there."""
    try:
        with OPENER.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False
