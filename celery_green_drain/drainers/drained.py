"""What a drainer drains: a result consumer, as the loop sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

__all__ = ("Drained", "drained")


class Drained(ABC):
    """A result consumer, as the loop of a drainer sees it. The loop alone calls it."""

    #: Longest pause between two attempts to reconnect, in seconds.
    retry_max: float = 30.0

    #: What a lost connection raises, for this protocol. Anything else is logged with a traceback.
    connection_errors: tuple[type[BaseException], ...] = (OSError,)

    #: Errors by which the server refuses us: it is tried again soon, as rights may change.
    refusals: tuple[type[Exception], ...] = ()

    #: Those by which it says that it will answer later: it is asked again soon.
    delays: tuple[type[Exception], ...] = ()

    @property
    def connected(self) -> bool:
        """Whether a turn that raised nothing shows that the connection works."""
        return True

    @abstractmethod
    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for something to do, at most *timeout* seconds, and do a bounded amount of it.

        :raises Exception: where the connection is lost; the next call opens another one.
        """

    def on_drainer_start(self) -> None:
        """The loop has begun."""

    def on_lost(self, error: str, first: bool) -> None:
        """A turn has failed with *error*, the *first* one of an outage or a further one."""

    def on_back(self, seconds: float, attempts: int) -> None:
        """The outage is over."""

    def on_drainer_end(self, stopped: bool) -> None:
        """The loop has ended, on request (*stopped*) or because it was killed."""


class _ForeignConsumer(Drained):
    """A consumer that is not ours: it has Celery's ``drain_events(timeout)``, and no more."""

    def __init__(self, result_consumer: Any) -> None:
        self._consumer = result_consumer

    def drain_events(self, timeout: float | None = None) -> None:
        self._consumer.drain_events(timeout=timeout)


def drained(result_consumer: Any) -> Drained:
    """Return *result_consumer* as the loop is to see it."""
    return (
        result_consumer
        if isinstance(result_consumer, Drained)
        else _ForeignConsumer(result_consumer)
    )
