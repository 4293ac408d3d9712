"""What is needed of Celery's result objects beyond their public names, in one place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery.result import ResultSet

__all__ = ("as_text", "known", "learn", "leaves", "make_known")


def as_text(task_id: Any) -> str:
    """A task id as the worker sends it back, whatever type it was given in, such as a UUID."""
    return task_id.decode() if isinstance(task_id, bytes) else str(task_id)


def known(result: Any) -> Any:
    """The last state of an ``AsyncResult``, if it knows it; None: the task has not ended so far."""
    return result._cache


def learn(result: Any, meta: dict[str, Any]) -> None:
    """Have an ``AsyncResult`` keep its last state, and tell nobody.

    :raises Exception: where it cannot be read, as one with children that are none.
    """
    result._set_cache(result.backend.meta_from_decoded(meta))


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
