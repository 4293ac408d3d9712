"""What a drain loop does while its connection is away: longer and longer pauses, and few lines."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..clock import monotonic
from ..notices import Seldom
from ..quoting import one_line

__all__ = ("Backoff", "Outage")

logger = logging.getLogger(__name__)

#: Seconds that a connection must have held to count as back: a server that is just starting
#: accepts connections and refuses commands.
STEADY = 1.0

#: What differs between two errors of one kind, such as ports and seconds.
NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True)
class Backoff:
    """How long to pause after so many failures in a row."""

    #: Seconds after the first failure; doubled with each further one.
    first: float = 0.1

    #: Longest pause, in seconds.
    longest: float = 30.0

    def pause(self, failures: int, jitter: Callable[[], float] = random.random) -> float:
        """Seconds to pause after *failures* failures: half of it is fixed, half is chance."""
        full = min(self.longest, self.first * 2.0 ** min(failures - 1, 32))
        return full * (1 + jitter()) / 2


class Outage:
    """From the first failure until a connection has held for :data:`STEADY` seconds.

    One line in the log when it begins and one when it is over. In between one for each further
    kind of error: at once where it is none that a lost connection raises, else seldom, as an outage
    shows itself in several ways.
    """

    def __init__(self) -> None:
        #: Failures in a row; and those among them since a connection has last been of use.
        self.failures = 0
        self.attempts = 0
        #: The last error, as text; None: there was none.
        self.error: str | None = None
        self._kinds: set[str] = set()
        self._lines = Seldom()
        self._lost_at = monotonic()
        self._back_at: float | None = None

    def __repr__(self) -> str:
        return f"<Outage: {self.failures} failures, the last one {self.error}>"

    @property
    def over(self) -> bool:
        """Whether the connection holds."""
        return not self.failures

    def failed(self, exc: Exception, expected: bool, refused: bool, lasted: bool = False) -> str:
        """Take notice of one more failure; return it as text.

        :param expected: whether it is one that a lost connection raises.
        :param refused: whether the server has refused us.
        :param lasted: whether the connection has been of use meanwhile.
        """
        now = monotonic()
        if not self.failures:
            self._lost_at = now
        self.failures += 1
        self.attempts = 1 if lasted else self.attempts + 1
        self._back_at = None
        self.error = one_line(exc)
        # By its text, as redis-py has one class for most, and without what differs each time.
        kind, first = NUMBERS.sub("", self.error), not self._kinds
        if kind in self._kinds or (expected and not refused and not first and not self._lines.due):
            return self.error
        self._kinds.add(kind)
        self._lines.said()
        if first:
            logger.warning(
                "Lost the connection that results come over, reconnecting until it is back: %s",
                self.error,
                exc_info=None if expected else exc,
            )
        elif not refused:
            logger.warning(
                "The connection that results come over is still away, now because of %s",
                self.error,
                exc_info=None if expected else exc,
            )
        if refused:
            logger.error(
                "The server refuses the connection that results come over. Those who wait are "
                "told, where it had served before if that lasts: %s",
                self.error,
            )
        return self.error

    def held(self) -> float | None:
        """The connection works. If that lasts, the outage is over: return its seconds."""
        now = monotonic()
        if self._back_at is None:
            self._back_at = now
        if now - self._back_at < STEADY:
            return None
        seconds = self._back_at - self._lost_at
        logger.warning(
            "The connection that results come over is back after %.1f s (%d attempts).",
            seconds,
            self.failures,
        )
        self.failures = self.attempts = 0
        self._kinds.clear()
        return seconds
