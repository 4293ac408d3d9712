"""Celery's Redis backends, served by a drainer."""

from __future__ import annotations

import logging
import select
from functools import partial
from queue import Empty
from types import SimpleNamespace
from typing import Any

import redis
import redis.sentinel
from celery.backends import redis as stock

from .. import drainers
from ..clock import monotonic
from ..consumers.decoding import JSON, NOT_PLAIN, plain
from ..consumers.redis.consumer import RedisResultConsumer
from ..drainers.slots import PATIENCE, Slots
from ..internals import redis_socket
from ..sockets import is_closed
from .base import DrainedBackendMixin

__all__ = ("RedisBackend", "SentinelBackend")

logger = logging.getLogger(__name__)


class AtFirst(int):
    """A number of connections that nobody has asked for: so there may be more."""


#: Connections for single commands (``forget()``, chords, what a worker stores), unless
#: ``redis_max_connections`` says otherwise. Who finds none free waits for one.
MAX_CONNECTIONS = AtFirst(10)

#: Where none comes back for so many seconds, they are held by who listens or blocks, for which an
#: application may use the client as well. Then there is one more, up to so many.
HELD, MOST = 0.5, 1000


class FreeConnections(Slots):
    """The connections of a blocking pool of redis-py that nobody uses."""

    def __init__(self, maxsize: int) -> None:
        # Asked each time, as the process may be patched after this.
        super().__init__(maxsize, lambda: drainers.fitting().own_signal())
        self._at_first = maxsize
        self._moved = monotonic()

    def put_nowait(self, thing: Any) -> None:
        self._moved = monotonic()
        super().put_nowait(thing)

    def overdue(self) -> None:
        held = monotonic() - self._moved >= HELD
        if not held or not isinstance(self._at_first, AtFirst) or self.maxsize >= MOST:
            return
        if self.maxsize == self._at_first:
            logger.warning(
                "All %d connections to Redis for single commands are in use for long, so there "
                "are more from now on, as many as that needs. See redis_max_connections.",
                self.maxsize,
            )
        self.maxsize += 1
        self.put_nowait(None)  # which has the pool make one

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        try:
            connection = super().get(block, timeout)
        except Empty:
            raise redis.ConnectionError(
                f"None of {self.maxsize} connections to Redis for single commands has become free "
                f"within {timeout or 0:g} s: raise redis_max_connections, or ask less at once."
            ) from None
        # redis-py 8 looks itself, with poll(), which eventlet takes away.
        if connection is not None and not hasattr(select, "poll"):
            sock = redis_socket(connection)
            if sock is not None and is_closed(sock):
                connection.disconnect()  # to be opened anew
        return connection


#: How redis-py's blocking pool waits for a free connection.
WAITING = {"timeout": PATIENCE, "queue_class": FreeConnections}


class RedisBackend(DrainedBackendMixin, stock.RedisBackend):
    """Celery's Redis backend, with results drained by one greenlet."""

    ResultConsumer = RedisResultConsumer
    result_consumer: RedisResultConsumer
    max_connections = MAX_CONNECTIONS

    @property
    def ConnectionPool(self) -> Any:
        return self._ConnectionPool or partial(redis.BlockingConnectionPool, **WAITING)

    @property
    def client(self) -> Any:
        """The one client of the backend, made at its first use; or what a test has put there."""
        made = self.__dict__.get("_made_client")
        if made is None:
            # To make one may switch, so others may make theirs meanwhile. setdefault() keeps the
            # first, and the rest have opened no connection.
            fresh = self._create_client(**self.connparams)
            made = self.__dict__.setdefault("_made_client", fresh)
        return made

    @client.setter
    def client(self, client: Any) -> None:
        self.__dict__.update(_made_client=client, _is_replaced=True)

    @client.deleter
    def client(self) -> None:
        self.__dict__.pop("_made_client", None)
        self._is_replaced = False

    #: Whether somebody has put another client there, which is to be asked then.
    _is_replaced = False

    def get(self, key: Any) -> Any:
        """As Celery does; what is asked for at once goes in one command, over the drainer."""
        reading = None
        if isinstance(key, (str, bytes)) and not self._is_replaced:
            reading = self.result_consumer.read(key.encode() if isinstance(key, str) else key)
        return super().get(key) if reading is None else reading.value

    def decode(self, payload: Any) -> Any:
        """As Celery does, in half the time where it is JSON and not compressed."""
        value = plain(payload, self.content_type, self.accept)
        return super().decode(payload) if value is NOT_PLAIN else value

    @property
    def decodes_plainly(self) -> bool:
        """Whether a state is JSON and nothing else: nobody has a way of their own to decode it."""
        cls = type(self)
        ways = cls.decode, cls.decode_result, cls.meta_from_decoded
        return ways == WAYS and self.content_type == JSON

    def drainer_pool(self, **params: Any) -> Any:
        """A pool for the connections of the drainer, with *params* over the configured ones."""
        return self._get_pool(**{**self.connparams, **params})


#: How a state is decoded, unless a subclass or another package changes it after this.
WAYS = RedisBackend.decode, RedisBackend.decode_result, RedisBackend.meta_from_decoded


class BlockingSentinelPool(redis.sentinel.SentinelConnectionPool, redis.BlockingConnectionPool):
    """Asks the sentinels for the master, and lets callers wait for a free connection."""

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Disconnect all connections, or those only that nobody uses."""
        if inuse_connections:
            super().disconnect()
            return
        # After a failover redis-py asks for this; before 7.0 its blocking pool cannot do it.
        for connection in list(self.pool.queue):
            if connection is not None:
                connection.disconnect()


class Sentinel(redis.sentinel.Sentinel):
    """Makes such pools.

    :param limits: options for the connections to sentinels, after ``sentinel_kwargs``. Celery sets
        none, so that redis-py before 8 would wait for a frozen one for ever.
    """

    def __init__(
        self,
        sentinels: Any,
        min_other_sentinels: int = 0,
        sentinel_kwargs: dict[str, Any] | None = None,
        limits: dict[str, Any] | None = None,
        **connection_kwargs: Any,
    ) -> None:
        if limits is not None:
            sentinel_kwargs = {**limits, **(sentinel_kwargs or {})}
        super().__init__(sentinels, min_other_sentinels, sentinel_kwargs, **connection_kwargs)

    def master_for(self, service_name: str, *args: Any, **kwargs: Any) -> Any:
        kwargs.update(connection_pool_class=BlockingSentinelPool, **WAITING)
        return super().master_for(service_name, *args, **kwargs)


class SentinelBackend(RedisBackend, stock.SentinelBackend):
    """Celery's Redis Sentinel backend, with results drained by one greenlet."""

    #: In place of the module of redis-py, of which Celery uses this one name.
    sentinel = SimpleNamespace(Sentinel=Sentinel)

    def drainer_pool(self, **params: Any) -> Any:
        limits = {name: params[name] for name in ("socket_timeout", "retry")}
        return super().drainer_pool(limits=limits, **params)
