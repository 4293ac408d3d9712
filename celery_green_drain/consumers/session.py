"""Consumers that hold connections: opened, turned over and over, closed, opened again."""

from __future__ import annotations

import socket
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from .base import ResultConsumer
from .waker import Waker

__all__ = ("Session", "SessionConsumer", "not_blocking", "nothing_there")


class Session(ABC):
    """What is open, from its opening to its end. The drain loop alone uses it."""

    #: How many connections it consists of.
    CONNECTIONS: ClassVar[int] = 1

    #: Ends the loop's wait for something to arrive.
    waker: Waker

    #: Whether this belongs to the process that forked, and is not to be touched.
    forgotten = False

    @abstractmethod
    def turn(self, timeout: float | None) -> None:
        """Wait for something to arrive, at most *timeout* seconds, and handle all of it."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open, unless it is another process's. Asks nobody, waits for nobody."""


class SessionConsumer(ResultConsumer):
    """A consumer with one session at a time, and a new one after each failure."""

    #: Errors that no new attempt will mend: who waits is told at once.
    refusals: tuple[type[Exception], ...] = ()

    @abstractmethod
    def open_session(self) -> Session:
        """Open what there is to open.

        :raises Exception: one of :attr:`connection_errors` where that fails.
        """

    def _begin(self) -> None:
        super()._begin()
        self._session: Any = None
        self._opened = 0.0

    @property
    def connections(self) -> int:
        return 0 if self._session is None else self._session.CONNECTIONS

    def drain_events(self, timeout: float | None = None) -> None:
        session = self._session
        try:
            self._read_notes()
            if session is None:
                self._session = self.open_session()
                self._connects += 1
                self._opened = time.monotonic()
            else:
                session.turn(timeout)
                if time.monotonic() - self._opened > self.settings.heartbeat:
                    self.expire()
        except BaseException as exc:
            if isinstance(exc, self.refusals):
                self.table.fail(self.table, exc)
            if session is not None:
                # This very one: after a fork the child may have another by now.
                session.close()
                if self._session is session:
                    self._session = None
            if isinstance(exc, socket.timeout):
                # To the drainer that would mean that nothing has come.
                raise ConnectionError("The server did not answer in time.") from exc
            raise

    def wake(self) -> None:
        session = self._session
        if session is not None:
            session.waker.wake()

    def disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def forget_connections(self) -> object:
        if self._session is not None:
            self._session.forgotten = True
        return self._session


@contextmanager
def not_blocking(sock: Any) -> Iterator[None]:
    """Have *sock* raise, inside, where there is nothing to read. See :func:`nothing_there`."""
    patience = sock.gettimeout()
    sock.settimeout(0)
    try:
        yield
    finally:
        sock.settimeout(patience)


def nothing_there(exc: BaseException | None) -> bool:
    """Whether *exc* only says that a socket which does not block has nothing to read.

    redis-py has no error for that. eventlet's TLS sockets say that the time is up.
    """
    nothing = (BlockingIOError, ssl.SSLWantReadError, socket.timeout)
    while exc is not None and not isinstance(exc, nothing):
        exc = exc.__context__
    return exc is not None
