"""The factories behind the entry points ``celery.result_backends``.

Celery prefers an entry point to its own backend of that name, and calls it as it would the
class. Without ``result_drainer`` it gets just what it would have got without us.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from celery.app.backends import BACKEND_ALIASES, by_url
from celery.backends.base import DisabledBackend, SyncBackendMixin
from celery.exceptions import ImproperlyConfigured
from kombu.utils.imports import symbol_by_name
from kombu.utils.url import maybe_sanitize_url

from ..notices import notify
from ..settings import Settings

__all__ = ("django_cache", "django_db", "green", "redis_backend", "rpc_backend", "sentinel_backend")


def redis_backend(app: Any, **kwargs: Any) -> Any:
    """``redis://`` and ``rediss://``."""
    return _backend(app, kwargs, _stock(app, "redis"), _ours(".redis:RedisBackend"))


def rpc_backend(app: Any, **kwargs: Any) -> Any:
    """``rpc://``."""
    backend = _backend(app, kwargs, _stock(app, "rpc"), _ours(".rpc:RpcBackend"))
    if hasattr(backend, "take_replies"):
        backend.take_replies()
    return backend


def sentinel_backend(app: Any, **kwargs: Any) -> Any:
    """``sentinel://``."""
    return _backend(app, kwargs, _stock(app, "sentinel"), _ours(".redis:SentinelBackend"))


def _polled_backend(name: str, app: Any, **kwargs: Any) -> Any:
    return _backend(app, kwargs, _stock(app, name), _polled)


#: Celery's own stores that must be polled, by the names that it has for them.
arangodb = partial(_polled_backend, "arangodb")
azureblockblob = partial(_polled_backend, "azureblockblob")
cache = partial(_polled_backend, "cache")
cassandra = partial(_polled_backend, "cassandra")
consul = partial(_polled_backend, "consul")
cosmosdbsql = partial(_polled_backend, "cosmosdbsql")
couchbase = partial(_polled_backend, "couchbase")
couchdb = partial(_polled_backend, "couchdb")
database = partial(_polled_backend, "database")
dynamodb = partial(_polled_backend, "dynamodb")
elasticsearch = partial(_polled_backend, "elasticsearch")
file = partial(_polled_backend, "file")
gs = partial(_polled_backend, "gs")
mongodb = partial(_polled_backend, "mongodb")
s3 = partial(_polled_backend, "s3")


def green(app: Any, url: str | None, **kwargs: Any) -> Any:
    """``green+<result_backend>``: any backend, also of another package, as it would be alone.

    :raises ImproperlyConfigured: where that is no backend that can be polled.
    """
    if not url or url.startswith(("green:", "://")):
        raise ImproperlyConfigured(
            "result_backend = 'green+...' needs the backend after the '+', such as "
            "'green+django-db://' or 'green+shop.stores.Store://host'."
        )
    stock, rest = by_url(url, app.loader)
    if not isinstance(stock, type):
        return stock(app=app, url=rest, **kwargs)  # a factory, such as those above
    return _backend(app, {"url": rest, **kwargs}, lambda: stock, _polled)


def django_db(app: Any, **kwargs: Any) -> Any:
    """``green+django-db``, as Celery takes that name without ``://`` too."""
    return green(app, **{**kwargs, "url": "django-db://"})


def django_cache(app: Any, **kwargs: Any) -> Any:
    """``green+django-cache``."""
    return green(app, **{**kwargs, "url": "django-cache://"})


def _stock(app: Any, name: str) -> Callable[[], type]:
    """What imports Celery's class of that name, or the one that the app's loader has for it."""
    aliases = {**BACKEND_ALIASES, **app.loader.override_backends}
    return partial(symbol_by_name, name, aliases)


def _ours(path: str) -> Callable[[Any], Any]:
    def drained(stock: Any) -> Any:
        ours: Any = symbol_by_name(path, package=__name__)
        *_, celerys = ours.__bases__
        if stock is celerys:
            return ours
        if not (isinstance(stock, type) and issubclass(stock, ours)):
            notify(
                f"The app's loader has {stock!r} in place of Celery's {celerys.__name__}, so that "
                "is used as it is, and no drainer of this package serves it."
            )
        return stock

    return drained


def _polled(stock: type) -> type:
    if not issubclass(stock, SyncBackendMixin) or issubclass(stock, DisabledBackend):
        raise ImproperlyConfigured(
            f"{stock.__module__}.{stock.__qualname__} cannot be polled for results: it is no store "
            f"(a subclass of celery.backends.base.BaseBackend or KeyValueStoreBackend). Leave out "
            f"'green+' to use it as it is."
        )
    from .polled import polled

    return polled(stock)


def _backend(
    app: Any,
    kwargs: dict[str, Any],
    import_stock: Callable[[], Any],
    drained: Callable[[Any], Any],
) -> Any:
    settings = Settings.of(app.conf)
    if settings.drainer is None:
        return import_stock()(app=app, **kwargs)
    try:
        stock = import_stock()
        cls = drained(stock)
    except ModuleNotFoundError as exc:
        if exc.name != "redis":
            raise
        raise ImproperlyConfigured(
            f"The result_backend {maybe_sanitize_url(str(kwargs.get('url')))!r} needs redis-py: "
            f"pip install 'celery-green-drain[redis]'"
        ) from exc
    backend = cls(app=app, **kwargs)
    if not hasattr(backend, "drainer_settings"):
        return backend  # of the loader: as Celery would have it, without a drainer
    # Several threads may ask an app for its first backend at once, and Celery would give each
    # its own, to drain by itself. setdefault() keeps one of them, and needs no lock.
    made: dict[str, Any] = vars(app).setdefault("_drained_backends", {})
    return made.setdefault(f"{stock} {kwargs} {settings}", backend)
