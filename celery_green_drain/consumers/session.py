"""Consumers that hold connections: opened, turned over and over, closed, opened again."""

from __future__ import annotations

import math
import socket
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from .. import forks
from ..clock import monotonic
from ..drainers.mailbox import Abandoned
from .base import ResultConsumer

__all__ = ("Session", "SessionConsumer")


#: Seconds for which a server that has served us may refuse us before anybody is told: passwords are
#: changed here and there, and not in one moment.
LENIENCY = 5.0


class Session(ABC):
    """What is open, from its opening to its end. The drain loop alone uses it."""

    @property
    def connections(self) -> int:
        """How many it consists of."""
        return 1

    @abstractmethod
    def turn(self, timeout: float | None) -> None:
        """Wait for something to arrive, at most *timeout* seconds, and handle some of it."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open. Asks nobody, waits for nobody."""


Opened = TypeVar("Opened", bound=Session)


class SessionConsumer(ResultConsumer, Generic[Opened]):
    """A consumer with one session at a time, and a new one after each failure."""

    @abstractmethod
    def open_session(self) -> Opened:
        """Open what there is to open.

        :raises Exception: one of :attr:`connection_errors` where that fails.
        """

    def _begin(self) -> None:
        super()._begin()
        self.session: Opened | None = None
        self._opened = 0.0
        #: When one was lost last, otherwise than by a refusal.
        self._lost = -math.inf

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, {self.session!r}>"

    @property
    def connections(self) -> int:
        return 0 if self.session is None else self.session.connections

    def drain_events(self, timeout: float | None = None) -> None:
        session = self.session
        try:
            if session is None:
                self.session = self._open_here()
                self.figures.connected()
                self._opened = monotonic()
            else:
                session.turn(timeout)
                if monotonic() - self._opened > self.settings.heartbeat:
                    self.expire()
        except BaseException as exc:
            forks.notice()
            if self.backend is None:
                self._orphaned(None)  # by another thread, just now, and this is how it shows
            # This very one: in a child it is the parent's, and this consumer has none.
            if session is not None and self.session is session:
                self.session = None
                session.close()
                if not isinstance(exc, self.refusals):  # some are told when it is open
                    self._lost = monotonic()
            if isinstance(exc, self.refusals) and monotonic() - self._lost > LENIENCY:
                self.tell_of_refusal(exc)
            if isinstance(exc, socket.timeout):
                # To the drainer that would mean that nothing has come.
                raise ConnectionError("The server did not answer in time.") from exc
            raise

    def _open_here(self) -> Opened:
        mailbox = self.mailbox  # that of this loop: in a child the consumer has another one
        session = self.open_session()
        try:
            mailbox.look()
        except Abandoned:
            forks.keep(session)
            raise
        return session

    def disconnect(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            session.close()

    def forget_connections(self) -> object:
        return self.session
