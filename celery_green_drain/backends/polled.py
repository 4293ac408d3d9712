"""Celery's backends for stores that never call back, polled by a drainer.

They are made from Celery's own classes, and from those of other packages, by one mixin.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from celery.backends.base import unpickle_backend

from .. import forks
from ..consumers.polled.consumer import PolledResultConsumer
from ..consumers.polled.lookups import Lookup, OneByOne
from ..django import close_old_connections
from .base import DrainedBackendMixin
from .memcached import ClientsMixin
from .stores import Traits, gathers, has_own_clients, traits_of

__all__ = ("PolledBackendMixin", "polled")


@cache
def polled(stock: type) -> type:
    """Return the backend class *stock*, served by a drainer."""
    mixins = (ClientsMixin, PolledBackendMixin) if has_own_clients(stock) else (PolledBackendMixin,)
    return type(stock.__name__, (*mixins, stock), {"stock": stock, "__doc__": stock.__doc__})


class PolledBackendMixin(DrainedBackendMixin):
    """What :func:`polled` mixes in."""

    #: Celery's class, without this.
    stock: type

    is_cached: Callable[[str], bool]

    def __init__(self, app: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(app, *args, **kwargs)
        self.traits.lookup.prepare(self)
        self.result_consumer: Any = PolledResultConsumer(self)

    @property
    def traits(self) -> Traits:
        """What is known of the store, as this process is patched now."""
        return traits_of(self, self.stock, self.drainer_settings)

    def lookup(self, one_by_one: bool = False) -> Lookup:
        """Make what finds the states of many tasks: as the store can best, or *one_by_one*."""
        # The same store without this mixin, as the poller has its own way to make calls.
        store: Any = object.__new__(self.stock)
        # What fails there is tried again by the drainer. Who polls keeps no app alive.
        vars(store).update(vars(self), always_retry=False, app=weakref.proxy(self.app))
        return (OneByOne if one_by_one else self.traits.lookup)(store)

    def forget_connections(self) -> object:
        """Return what is open, which belongs to another process now, without touching it."""
        return None

    # -- the calls to the store, which may block

    def get_task_meta(self, task_id: str, cache: bool = True) -> Any:
        if cache and self.is_cached(task_id):
            return super().get_task_meta(task_id)
        alone = partial(self._in_store, "get_task_meta", task_id, cache=cache)
        # Each store takes ids of other types as it likes.
        if type(task_id) is not str or self.result_consumer.calls_store():
            return alone()
        forks.notice()
        return self.result_consumer.reads.read(task_id, alone)

    @property
    def gathers(self) -> bool:
        """Whether single reads go together where they gather."""
        # What Celery is to keep it has to read itself.
        return self.app.conf.result_cache_max == -1 and gathers(self, self.stock)

    def get_group_meta(self, group_id: str, cache: bool = True) -> Any:
        return self._in_store("get_group_meta", group_id, cache=cache)

    def store_result(self, *args: Any, **kwargs: Any) -> Any:
        return self._in_store("store_result", *args, **kwargs)

    def forget(self, task_id: str) -> None:
        self._in_store("forget", task_id)

    def save_group(self, group_id: str, result: Any) -> Any:
        return self._in_store("save_group", group_id, result)

    def delete_group(self, group_id: str) -> Any:
        return self._in_store("delete_group", group_id)

    def _in_store(self, name: str, *args: Any, **kwargs: Any) -> Any:
        function = partial(getattr(super(), name), *args, **kwargs)
        return self.result_consumer.call_store(_call, function, threading.get_ident())

    # -- pickling

    def __reduce__(self, args: Any = (), kwargs: Any = None) -> Any:
        restore, ((_, (_, *arguments)), url) = super().__reduce__(args, kwargs)
        return restore, ((_unpickle, (self.stock, *arguments)), url)


def _call(function: Callable[[], Any], caller: int) -> Any:
    try:
        return function()
    finally:
        # A native thread of a pool ends no request, which is when Django would do it.
        if threading.get_ident() != caller:
            close_old_connections()


def _unpickle(stock: type, *args: Any) -> Any:
    return unpickle_backend(polled(stock), *args)
