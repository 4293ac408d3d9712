"""A stored value that somebody asks for, to be read together with what others ask for."""

from __future__ import annotations

from typing import Any

from ..drainers.signal import Signal

__all__ = ("Reading",)


class Reading:
    """One read: whoever reads for all answers it, or says that it cannot."""

    __slots__ = ("_signal", "answered", "key", "value")

    def __init__(self, key: Any, signal: Signal) -> None:
        self.key = key
        #: What is stored; None: nothing.
        self.value: Any = None
        #: Whether that was found out.
        self.answered = False
        self._signal = signal

    def __repr__(self) -> str:
        return f"<Reading of {self.key!r}: {'answered' if self.answered else 'not answered'}>"

    def answer(self, value: Any) -> None:
        """Give what is stored to whoever waits for it."""
        self.value, self.answered = value, True
        self._signal.set()

    def give_up(self) -> None:
        """Whoever waits has to ask in another way. Without effect where it is answered."""
        self._signal.set()

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be waited for."""
        return self._signal.ready

    def wait(self, timeout: float) -> bool:
        """Wait for the answer, *timeout* seconds at most; return whether there is one."""
        self._signal.wait(timeout)
        return self.answered
