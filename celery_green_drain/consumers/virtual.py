"""The reply queue over the other brokers of kombu: its virtual transports, such as Redis.

They take a message out of the broker before they deliver it, so that to acknowledge it
afterwards would save nothing, and cost two commands.
"""

from __future__ import annotations

import selectors
import socket
import time
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Any

import kombu
from kombu.utils.eventio import READ

from .session import Session
from .waker import Waker

if TYPE_CHECKING:
    from .rpc import RpcResultConsumer

__all__ = ("VirtualSession",)

#: Messages handled in one turn.
BATCH = 500

#: Seconds between two looks at a broker that cannot tell when there is something, at most.
PAUSE = 0.05

#: Shortest silence, in seconds, that a broker may fall into which can: Redis answers each second.
SILENCE = 3.0


class VirtualSession(Session):
    """A connection that consumes the reply queue.

    :raises kombu.exceptions.OperationalError: where it cannot be opened.
    """

    def __init__(self, consumer: RpcResultConsumer, connection: kombu.Connection) -> None:
        self._drainer = consumer.drainer
        self._connection = connection
        self._silence = max(SILENCE, consumer.settings.heartbeat)
        if connection.transport.driver_type == "redis":
            connection.transport_options.setdefault("socket_timeout", self._silence)
        with ExitStack() as opened:
            self.waker = opened.enter_context(closing(Waker()))
            self._selector = opened.enter_context(closing(self._drainer.selector()))
            self._poller = Poller(self._selector, self.waker)
            opened.callback(connection.collect)
            # Each broker of a list in turn, without a pause: the drainer makes those.
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            self._pause = self._poll_with(self._poller)
            self._channel = connection.channel()
            self._queue = consumer.queue()(self._channel)
            self._queue.declare()
            consumer.consume(self._channel, self._queue, consumer.receive, no_ack=True)
            self._opened = opened.pop_all()

    def _poll_with(self, poller: Poller) -> float | None:
        """Have the transport use our selector; return how long to pause where it has no use."""
        transport = self._connection.transport
        use = getattr(transport.cycle, "on_poll_init", None)
        if use is None:
            return min(PAUSE, transport.polling_interval or PAUSE)
        use(poller)
        return None

    def close(self) -> None:
        if not self.forgotten:
            self._opened.close()

    def leave(self, delete: bool) -> None:
        """Close; *delete* the queue before."""
        with suppress(*self._connection.connection_errors, OSError):
            if delete:
                self._channel.queue_delete(self._queue.name)
        self.close()

    def turn(self, timeout: float | None) -> None:
        self._read()
        waits = [wait for wait in (timeout, self._pause) if wait is not None]
        ready = [key.data for key, _ in self._selector.select(min(waits, default=None))]
        if self.forgotten:
            return
        if self.waker in ready:
            self.waker.clear()
        if self._pause is None and time.monotonic() - self._poller.heard > self._silence:
            raise ConnectionError(f"The broker has not answered for {self._silence:g} s.")

    def _read(self) -> None:
        with suppress(socket.timeout):  # there is nothing more
            for _ in range(BATCH):
                self._connection.drain_events(timeout=0)
        self._drainer.sleep(0)


class Poller:
    """What kombu polls sockets with, over the drain loop's selector."""

    def __init__(self, selector: selectors.BaseSelector, waker: Waker) -> None:
        self._selector = selector
        self._waker = waker
        self.heard = time.monotonic()
        selector.register(waker, selectors.EVENT_READ, waker)

    def register(self, source: Any, events: int) -> None:
        self.unregister(source)
        self._selector.register(source, selectors.EVENT_READ)

    def unregister(self, source: Any) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(source)

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        keys = [key for key, _ in self._selector.select(0) if key.data is not self._waker]
        if keys:
            self.heard = time.monotonic()
        return [(key.fd, READ) for key in keys]
