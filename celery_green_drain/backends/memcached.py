"""One backend for many greenlets, where Celery's has one client that only one may use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from .. import drainers
from .stores import Traits

__all__ = ("Clients", "ClientsMixin")


class Clients:
    """In place of a client: each call has one to itself.

    :param shared: whether the caller may take one that another one has used, and leave its own.
    """

    def __init__(self, make: Callable[[], Any], shared: Callable[[], bool]) -> None:
        self._make = make
        self._shared = shared
        self._free: deque[Any] = deque()

    def __getattr__(self, name: str) -> Any:
        return partial(self._call, name)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        shared = self._shared()
        client = self._take() if shared else self._make()
        answer = getattr(client, name)(*args, **kwargs)
        # Not where the call was broken off: the next one would read the rest of its answer.
        if shared:
            self._free.append(client)
        return answer

    def _take(self) -> Any:
        try:
            return self._free.pop()
        except IndexError:
            return self._make()


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
            self._clients = Clients(make, _never if self.traits.blocks else _may_share)
        return self._clients

    def forget_connections(self) -> object:
        clients, self._clients = self._clients, None
        return clients


def _may_share() -> bool:
    return drainers.fitting().shares_sockets()


def _never() -> bool:
    # Calls that block are made in native threads, which come and go.
    return False
