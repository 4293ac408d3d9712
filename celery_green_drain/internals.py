"""What is needed of other packages beyond their public names.

A name that a subclass inherits, or that has its way without it right beside it, is used where it is
needed; all others are here. ``tests/test_internals.py`` lists all, and tells when one goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakMethod

from celery.result import AsyncResult, ResultSet
from kombu import pools

__all__ = (
    "as_text",
    "disown_pools",
    "eventlet_hub",
    "fulfilled_by_celery",
    "known",
    "learn",
    "leaves",
    "make_known",
    "psycopg_waits_in_c",
    "redis_socket",
    "result_cache",
    "sqlalchemy_is_listened_to",
)


def as_text(task_id: Any) -> str:
    """A task id as the worker sends it back, whatever type it was given in, such as a UUID."""
    if type(task_id) is str:
        return task_id
    if isinstance(task_id, str):  # such as an enum of texts, which tells its name in other ways
        return str.__str__(task_id)
    return task_id.decode() if isinstance(task_id, bytes) else str(task_id)


def disown_pools(app: Any) -> list[object]:
    """Have *app* send over new connections; return the pools that it had, with all in them.

    For a child of ``os.fork()``, where they are its parent's: ``kombu.pools.reset()`` would end
    the parent's connections, as it shuts down what it closes.
    """
    amqp = vars(app).get("amqp")
    owned = [app, *([] if amqp is None else [amqp])]
    names = ("_pool", "_producer_pool")
    disowned = [vars(owner).pop(name, None) for owner in owned for name in names]
    for owner, name in zip(owned, names):
        setattr(owner, name, None)
    for group in (pools.connections, pools.producers):
        disowned.extend(group.values())
        group.clear()
    return disowned


def result_cache(backend: Any) -> Any:
    """What ``result_cache_max`` has *backend* keep, by task id; None: it is off, as by default."""
    off = backend.app.conf.result_cache_max == -1
    return None if off else getattr(backend, "_cache", None)


def known(result: Any) -> Any:
    """The last state of an ``AsyncResult``, if it knows it; None: the task has not ended so far."""
    return result._cache


def learn(result: Any, meta: dict[str, Any]) -> None:
    """Have an ``AsyncResult`` keep its last state, as its backend has decoded it, and tell nobody.

    :raises Exception: where it cannot be read, as one with children that are none.
    """
    result._set_cache(meta)


def fulfilled_by_celery(promise: Any) -> bool:
    """Whether *promise* calls nobody but Celery, as that which each ``AsyncResult`` begins with."""
    function = getattr(promise, "fun", None)
    if isinstance(function, WeakMethod):
        function = function()
    # Where the name goes it is called like anybody's, which does no harm.
    celerys = getattr(AsyncResult, "_on_fulfilled", None)
    return function is None or getattr(function, "__func__", None) is celerys


def make_known(result: Any, meta: dict[str, Any]) -> None:
    """Tell an ``AsyncResult`` a state. If that is the last one, it calls its ``on_ready``."""
    # Celery's own backends call it too.
    result._maybe_set_cache(meta)


def leaves(result: Any) -> Iterator[Any]:
    """The single results that *result* consists of: itself, or the members of a set."""
    if isinstance(result, ResultSet):
        for member in result.results:
            yield from leaves(member)
    else:
        yield result


def psycopg_waits_in_c() -> bool:
    """Whether psycopg waits where no green library reaches it, as it decided at its import.

    It does, where it has a part in C, unless gevent had patched the process before. It knows
    nothing of eventlet.
    """
    try:
        from psycopg import waiting
    except ImportError:
        return False  # who connects is told
    return waiting.wait is getattr(waiting, "wait_c", None)


def eventlet_hub() -> Any:
    """The hub of this native thread; None: it has none, and ``get_hub()`` would make one."""
    from eventlet import hubs

    return getattr(getattr(hubs, "_threadlocal", None), "hub", None)


def redis_socket(connection: Any) -> Any:
    """The socket of a connection of redis-py, which has no other way to wait for it."""
    return connection._sock


def sqlalchemy_is_listened_to() -> bool:
    """Whether somebody listens to all connections or queries, and not to those of one engine."""
    from sqlalchemy.engine import Engine
    from sqlalchemy.engine.default import DefaultDialect
    from sqlalchemy.orm import Query, Session
    from sqlalchemy.pool import Pool

    classes: tuple[Any, ...] = (Engine, DefaultDialect, Pool, Session, Query)
    try:
        listeners = [
            getattr(cls.dispatch, name)._clslevel
            for cls in classes
            for name in cls.dispatch._event_names
        ]
        return any(any(each.values()) for each in listeners if each)
    except (AttributeError, RuntimeError):  # other names, or a thread makes an engine just now
        return True
