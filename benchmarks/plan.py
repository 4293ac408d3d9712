"""What is measured: each line of the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ("Measurement", "full", "quick", "tiny")


@dataclass(frozen=True)
class Measurement:
    """One case, for one contender, with so many at once."""

    #: A function of ``waits.py``, ``trips.py`` or ``limits.py``.
    case: str
    #: drained: this package; stock: Celery as it comes; tuned: Celery with a shared backend and
    #: a large pool; limit: the protocol or the green library alone.
    contender: str
    library: str
    store: str
    count: int
    #: Seconds after which it counts as failed.
    patience: float = 60.0

    @property
    def name(self) -> str:
        parts = (self.case, self.contender, self.library, self.store, str(self.count))
        return " ".join(filter(None, parts))
