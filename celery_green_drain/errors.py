"""The errors and warnings of this package."""

from __future__ import annotations

from celery.exceptions import TimeoutError

__all__ = (
    "DrainerStopped",
    "DrainerWarning",
    "GreenDrainError",
    "ResultError",
    "ResultEvicted",
    "ResultNeverCame",
    "TaskContextError",
)


class GreenDrainError(Exception):
    """Base of the errors of this package."""


class ResultError(GreenDrainError):
    """Base of those that concern the result of one task."""

    def __init__(self, message: str, task_id: str | None = None) -> None:
        super().__init__(message)
        #: Whose result; None: that is not known.
        self.task_id = task_id


class DrainerStopped(ResultError):
    """Raised in a waiter when the drainer is stopped before its result came.

    The task itself is untouched: waiting again starts the drainer anew. Of several results, the
    ``task_id`` is that of the first one that was missing.
    """


class ResultEvicted(ResultError):
    """Raised where a result is asked for that has come over a message queue and was not kept.

    At most ``result_drainer_buffer`` results are kept that nobody has asked for.
    """


class ResultNeverCame(ResultError, TimeoutError):
    """Given to ``on_error`` where no result has come within ``result_expires`` of ``then()``.

    Or before the process ended, see ``result_drainer_exit_timeout``. Also a
    :exc:`celery.exceptions.TimeoutError`.
    """


class TaskContextError(GreenDrainError, RuntimeError):
    """Raised where the current task is asked for and there is none, or it has returned."""


class DrainerWarning(RuntimeWarning):
    """Issued where a setting cannot be followed in this process, or is probably misspelt."""
