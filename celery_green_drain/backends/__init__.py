"""The factories behind the entry points ``celery.result_backends``.

Celery prefers an entry point to its own backend of that name, and calls it as it would the
class. Without ``result_drainer`` it gets just what it would have got without us.
"""

from __future__ import annotations

from typing import Any

from celery.app.backends import BACKEND_ALIASES
from kombu.utils.imports import symbol_by_name

from ..settings import Settings

__all__ = ("redis_backend", "rpc_backend", "sentinel_backend")


def redis_backend(app: Any, **kwargs: Any) -> Any:
    """``redis://`` and ``rediss://``."""
    return _backend("redis", ".redis:RedisBackend", app, kwargs)


def rpc_backend(app: Any, **kwargs: Any) -> Any:
    """``rpc://``."""
    return _backend("rpc", ".rpc:RpcBackend", app, kwargs)


def sentinel_backend(app: Any, **kwargs: Any) -> Any:
    """``sentinel://``."""
    return _backend("sentinel", ".redis:SentinelBackend", app, kwargs)


def _backend(name: str, drained: str, app: Any, kwargs: dict[str, Any]) -> Any:
    settings = Settings.of(app.conf)
    path = drained if settings.drainer is not None else BACKEND_ALIASES[name]
    backend = symbol_by_name(path, package=__name__)(app=app, **kwargs)
    if settings.drainer is None:
        return backend
    # Several threads may ask an app for its first backend at once, and Celery would give each
    # its own, to drain by itself. setdefault() keeps one of them, and needs no lock.
    made: dict[str, Any] = vars(app).setdefault("_drained_backends", {})
    return made.setdefault(f"{path} {kwargs} {settings}", backend)
