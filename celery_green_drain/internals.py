"""What is needed of other packages beyond their public names, in one place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery.result import ResultSet

__all__ = ("as_text", "known", "leaves", "make_known", "redis_socket")


def as_text(task_id: Any) -> str:
    """A task id as the worker sends it back, whatever type it was given in, such as a UUID."""
    return task_id.decode() if isinstance(task_id, bytes) else str(task_id)


def known(result: Any) -> Any:
    """The last state of an ``AsyncResult``, if it knows it; None: the task has not ended so far."""
    return result._cache


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


def redis_socket(connection: Any) -> Any:
    """The socket of a connection of redis-py, which has no other way to wait for it."""
    return connection._sock
