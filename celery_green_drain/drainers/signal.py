"""The one primitive that waiters use."""

from __future__ import annotations

from typing import Protocol

__all__ = ("Signal",)


class Signal(Protocol):
    """Wakes one waiter, once. It may be set from any thread, before or during the wait."""

    @property
    def ready(self) -> bool:
        """Whether it has been set."""

    def set(self) -> None:
        """Wake the waiter. Further calls have no effect. Never blocks, never switches."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until set, at most *timeout* seconds; return whether it was set."""
