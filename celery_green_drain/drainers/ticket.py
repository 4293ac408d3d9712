"""A right that one of several has: who is the first to take it."""

from __future__ import annotations

__all__ = ("Ticket",)


class Ticket:
    """Lets one begin, or end something, and nobody else."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = [True]

    def take(self) -> bool:
        """Return whether nobody has taken it so far. In one step."""
        try:
            return self._left.pop()
        except IndexError:
            return False
