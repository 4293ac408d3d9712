"""One backend for many greenlets, where Celery's has one client that only one may use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from .stores import Traits

__all__ = ("Clients", "ClientsMixin")


class Clients:
    """In place of a client: each call has one to itself.

    :param keep: whether one that is free is used again. Not from another thread: that may not
        touch the sockets of a green library.
    """

    def __init__(self, make: Callable[[], Any], keep: bool) -> None:
        self._make = make
        self._free: deque[Any] = deque(maxlen=None if keep else 0)

    def __getattr__(self, name: str) -> Any:
        return partial(self._call, name)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            client = self._free.pop()
        except IndexError:
            client = self._make()
        answer = getattr(client, name)(*args, **kwargs)
        # Not where the call was broken off: the next one would read the rest of its answer.
        self._free.append(client)
        return answer


class ClientsMixin:
    """For ``CacheBackend``, whose ``client`` is a single connection to memcached."""

    Client: Callable[..., Any]
    servers: Any
    options: dict[str, Any]
    traits: Traits

    _clients: Clients | None = None

    @property
    def client(self) -> Any:
        if self._clients is None:
            make = partial(self.Client, self.servers, **self.options)
            self._clients = Clients(make, keep=not self.traits.blocks)
        return self._clients

    def forget_connections(self) -> object:
        clients, self._clients = self._clients, None
        return clients
