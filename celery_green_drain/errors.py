"""The errors and warnings of this package."""

from __future__ import annotations

__all__ = ("DrainerStopped", "DrainerWarning", "GreenDrainError")


class GreenDrainError(Exception):
    """Base of the errors of this package."""


class DrainerStopped(GreenDrainError):
    """Raised in a waiter when the drainer is stopped before its result came.

    The task itself is untouched: waiting again starts the drainer anew.
    """


class DrainerWarning(RuntimeWarning):
    """Issued where ``result_drainer`` asks for what this process cannot give."""
