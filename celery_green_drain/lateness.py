"""Errors of results that did not come in time: which, and what is known of why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery.exceptions import TimeoutError

from .drainers.base import Drainer
from .quoting import quoted

__all__ = ("not_ready", "timed_out")


def timed_out(missing: list[str], state: Any, drainer: Drainer, seconds: float) -> TimeoutError:
    """The error of a wait that was given up after *seconds*.

    :param missing: the ids of the tasks that have not ended.
    :param state: the state in which the first of them was seen last; None: nothing was seen of it.
    """
    first = missing[0] if missing else ""
    seen = (
        "nothing was seen of it: no worker has ended it, or it stores its result elsewhere"
        if state is None
        else f"the last that was seen of it is {quoted(state)}"
    )
    if drainer.drained.connected:
        connected = "is connected"
    else:
        connected = f"is not connected ({drainer.outage.error or 'it has just begun'})"
    return TimeoutError(
        f"The operation timed out after {seconds:.3g} s. {_tasks(first, len(missing))} not ended, "
        f"and {seen}. {drainer.label} {connected}."
    )


def not_ready(metas: Iterable[tuple[Any, dict[str, Any]]]) -> TimeoutError:
    """The error of a look, without a wait, at results of which *metas* are not ready."""
    missing = list(metas)
    result, meta = missing[0]
    return TimeoutError(
        f"The operation timed out at once, as its timeout is not above 0. "
        f"{_tasks(result.id, len(missing))} not ended, and its state is {quoted(meta['status'])}."
    )


def _tasks(first: str, count: int) -> str:
    name = f"Task {quoted(first)} has"
    return name if count == 1 else f"{count} tasks have not ended. {name}"
