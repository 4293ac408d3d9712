"""Checks of the servers: the result store, and the broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from celery import uuid
from kombu import Producer, Queue

from ..addresses import broker_address, result_address
from ..backends.polled import PolledBackendMixin
from ..backends.rpc import RpcBackend
from ..quoting import one_line
from .findings import Finding

__all__ = ("check_broker", "check_store")

#: PINGs whose times are taken.
PINGS = 100

#: Seconds of a round trip that are many.
FAR = 0.1

#: Seconds of a look at a polled store that are many.
SLOW = 0.5

#: Bytes that Redis keeps for a subscriber by default before it cuts that off, at least.
OUTPUT_BUFFER = 8 * 1024 * 1024


def check_broker(app: Any, timeout: float) -> Iterator[Finding]:
    """See that tasks can be sent."""
    try:
        with app.connection_for_write(connect_timeout=timeout) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=timeout)
    except Exception as exc:
        yield Finding("GD213", f"{broker_address(app)}: {one_line(exc)}")


def check_store(app: Any, timeout: float, figures: dict[str, Any]) -> Iterator[Finding]:
    """See that results can be waited for. Times are added to *figures*, in seconds."""
    backend = app.backend
    if isinstance(backend, RpcBackend):
        yield from _check_queue(app, timeout)
    elif isinstance(backend, PolledBackendMixin):
        yield from _check_look(app, figures)
    else:
        yield from _check_redis(app, timeout, figures)


def _check_queue(app: Any, timeout: float) -> Iterator[Finding]:
    """Declare a queue such as the reply queue, send to it, receive from it, delete it."""
    connection, what = app.connection_for_write(connect_timeout=timeout), "connect"
    try:
        connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=timeout)
        with connection, connection.channel() as channel:
            what = "declare a queue"
            name = f"doctor-{uuid()}"
            queue = Queue(
                name, app.backend.exchange, name, channel, durable=True, expires=timeout * 10
            )
            queue.declare()
            what = "send to it"
            Producer(channel).publish({}, routing_key=queue.name, exchange=queue.exchange)
            what = "consume from it"
            deadline = time.monotonic() + timeout
            while queue.get(no_ack=True) is None:
                if time.monotonic() > deadline:
                    yield Finding("GD205", f"{broker_address(app)}: what was sent did not come.")
                    break
                time.sleep(0.01)
            queue.delete()
    except Exception as exc:
        id_ = "GD201" if what == "connect" else "GD203"
        yield Finding(id_, f"{broker_address(app)}: cannot {what}: {one_line(exc)}")


def _check_look(app: Any, figures: dict[str, Any]) -> Iterator[Finding]:
    began = time.monotonic()
    try:
        app.backend.get_task_meta(uuid())
        began = time.monotonic()  # the first one has connected
        app.backend.get_task_meta(uuid())
    except Exception as exc:
        yield Finding("GD211", f"{result_address(app)}: {one_line(exc)}")
        return
    if app.backend.traits.blocks:
        yield Finding("GD215", f"{result_address(app)}: calls are made in native threads.")
    figures["look"] = took = time.monotonic() - began
    if took > SLOW:
        yield Finding("GD212", f"{result_address(app)}: a look took {took:.2f} seconds.")


# -- Redis


def _check_redis(app: Any, timeout: float, figures: dict[str, Any]) -> Iterator[Finding]:
    import redis
    from redis.backoff import NoBackoff
    from redis.exceptions import AuthenticationError, RedisError, ResponseError
    from redis.retry import Retry

    backend, address = app.backend, result_address(app)
    pool = backend.drainer_pool(
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        retry_on_timeout=False,
    )
    client = redis.Redis(connection_pool=pool)
    try:
        try:
            client.get(backend.get_key_for_task(uuid()))
        except ResponseError as exc:
            if "db index" in str(exc).lower():  # of the SELECT before it
                yield Finding("GD201", f"{address}: there is no such database: {one_line(exc)}")
                return
            yield Finding("GD203", f"{address}: GET is refused: {one_line(exc)}")
        yield from _rights(client, address, backend)
        yield from _subscription(client, address, backend, timeout)
        yield from _configuration(client, address, backend.drainer_settings.heartbeat)
        yield from _distance(client, address, figures)
    except AuthenticationError as exc:
        yield Finding("GD202", f"{address}: {one_line(exc)}")
    except (RedisError, OSError) as exc:
        yield Finding("GD201", f"{address}: {one_line(exc)}")
    finally:
        pool.disconnect()


def _rights(client: Any, address: str, backend: Any) -> Iterator[Finding]:
    keys = [backend.get_key_for_task(uuid()) for _ in range(2)]
    for name, call in (("MGET", lambda: client.mget(keys)), ("PING", client.ping)):
        refusal = _refusal(call)
        if refusal:
            yield Finding("GD204", f"{address}: {name} is refused: {refusal}")


def _refusal(call: Callable[[], Any]) -> str | None:
    from redis.exceptions import AuthenticationError, ResponseError

    try:
        call()
    except AuthenticationError:
        raise
    except ResponseError as exc:
        return one_line(exc)
    return None


def _subscription(client: Any, address: str, backend: Any, timeout: float) -> Iterator[Finding]:
    from redis.exceptions import ResponseError

    channel = backend.get_key_for_task(uuid())
    with client.pubsub() as pubsub:
        try:
            pubsub.subscribe(channel)
            pubsub.get_message(timeout=timeout)
        except ResponseError as exc:
            yield Finding("GD203", f"{address}: SUBSCRIBE is refused: {one_line(exc)}")
            return
        if _refusal(lambda: client.publish(channel, b"doctor")):
            return  # it is the workers that publish
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            message = pubsub.get_message(timeout=timeout)
            if message is not None and message["type"] == "message":
                return
    yield Finding("GD205", f"{address}: what was published did not come within {timeout:g} s.")


def _configuration(client: Any, address: str, heartbeat: float) -> Iterator[Finding]:
    """How the server is set up, as far as it tells this user."""
    info: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    _refusal(lambda: info.update(client.info()))
    for name in ("timeout", "maxclients", "client-output-buffer-limit"):
        _refusal(lambda: limits.update(client.config_get(name)))  # noqa: B023
    if info.get("cluster_enabled"):
        yield Finding("GD214", f"{address}: cluster_enabled is 1.")
    policy = info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory") and policy != "noeviction":
        yield Finding("GD206", f"{address}: maxmemory-policy is {policy}.")
    hard = _pubsub_limit(limits.get("client-output-buffer-limit", ""))
    if 0 < hard < OUTPUT_BUFFER:
        yield Finding("GD207", f"{address}: client-output-buffer-limit pubsub is {hard} bytes.")
    timeout = float(limits.get("timeout", 0))
    if 0 < timeout <= heartbeat:
        yield Finding(
            "GD208",
            f"{address}: timeout is {timeout:g} s, and result_drainer_heartbeat {heartbeat:g} s.",
        )
    clients, most = int(info.get("connected_clients", 0)), int(limits.get("maxclients", 0))
    if most and clients > 0.8 * most:
        yield Finding("GD209", f"{address}: {clients} of {most} connections are in use.")


def _pubsub_limit(text: str) -> int:
    """The hard limit of "normal 0 0 0 … pubsub 33554432 8388608 60", in bytes; 0: none is known."""
    words = text.split()
    return int(words[words.index("pubsub") + 1]) if "pubsub" in words else 0


def _distance(client: Any, address: str, figures: dict[str, Any]) -> Iterator[Finding]:
    if _refusal(client.ping):
        return
    times = []
    for _ in range(PINGS):
        began = time.monotonic()
        client.ping()
        times.append(time.monotonic() - began)
    figures.update(ping_min=min(times), ping_median=median(times), ping_max=max(times))
    if figures["ping_median"] > FAR:
        yield Finding("GD210", f"{address}: a PING takes {figures['ping_median'] * 1000:.0f} ms.")
