"""The reply queue over the other brokers of kombu: its virtual transports, such as Redis.

They take a message out of the broker before they deliver it, so that to acknowledge it
afterwards would save nothing, and cost two commands.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import kombu
from kombu.utils.eventio import READ

from ...clock import monotonic
from ...drainers.mailbox import Mailbox
from .replies import Replies, Reply, RpcSession

__all__ = ("VirtualSession",)

#: Messages handled in one turn.
BATCH = 500

#: Seconds between two looks at a broker that cannot tell when there is something, at most.
PAUSE = 0.05

#: Shortest silence, in seconds, that a broker may fall into which can: Redis answers each second.
SILENCE = 3.0


class VirtualSession(RpcSession):
    """See the module."""

    def __init__(self, connection: kombu.Connection, replies: Replies) -> None:
        self._mailbox = replies.mailbox
        self._connection = connection
        self._silence = max(SILENCE, replies.heartbeat)
        if connection.transport.driver_type == "redis":
            connection.transport_options.setdefault("socket_timeout", self._silence)
        with ExitStack() as opened:
            self._poller = KombuPoller(self._mailbox)
            opened.callback(connection.collect)
            opened.callback(self._poller.close)
            # Each broker of a list in turn, without a pause: the drainer makes those.
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            self._pause = self._poll_with(self._poller)
            self._channel = connection.channel()
            self._queue = replies.declare(self._channel)
            self._consume(replies.receive)
            self._opened = opened.pop_all()

    def __repr__(self) -> str:
        return f"<VirtualSession: {self._connection.transport.driver_name}>"

    def _poll_with(self, poller: KombuPoller) -> float | None:
        """Have the transport use our selector; return how long to pause where it has no use."""
        transport = self._connection.transport
        use = getattr(transport.cycle, "on_poll_init", None)
        if use is None:
            return min(PAUSE, transport.polling_interval or PAUSE)
        use(poller)
        return None

    def _consume(self, receive: Callable[[Reply], object]) -> None:
        def on_message(message: kombu.Message, *error: Exception) -> None:
            receive(_reply(message))

        kombu.Consumer(
            self._channel,
            [self._queue],
            no_ack=True,
            on_message=on_message,
            on_decode_error=on_message,
            auto_declare=False,
        ).consume()

    def close(self) -> None:
        self._opened.close()

    def leave(self, delete: bool) -> None:
        with suppress(*self._connection.connection_errors, OSError):
            if delete:
                self._channel.queue_delete(self._queue.name)
        self.close()

    def turn(self, timeout: float | None) -> None:
        waits = [wait for wait in (timeout, self._pause) if wait is not None]
        if self._mailbox.wait(0 if self._read() else min(waits, default=None)):
            self._poller.heard = monotonic()  # where the process stood still, it is read late
        if self._is_silent:
            self._read()  # perhaps only as this greenlet could not run, and there is something
            if self._is_silent:
                raise ConnectionError(f"The broker has not answered for {self._silence:g} s.")

    @property
    def _is_silent(self) -> bool:
        """Whether a broker that can tell has told nothing for too long."""
        return self._pause is None and monotonic() - self._poller.heard > self._silence

    def _read(self) -> bool:
        """Handle what is there, up to a limit; return whether there may be more."""
        for _ in range(BATCH):
            try:
                self._connection.drain_events(timeout=0)
            except socket.timeout:
                return False
            self._mailbox.look()
        return True


def _reply(message: kombu.Message) -> Reply:
    return Reply(
        message.body,
        message.content_type,
        message.content_encoding,
        # kombu has taken it back, unless it could not.
        message.headers.get("compression") if message.errors else None,
        message.properties.get("correlation_id"),
        bool((message.delivery_info or {}).get("redelivered")),
    )


class KombuPoller:
    """The poller that kombu asks for, over the drain loop's mailbox."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._sources: set[Any] = set()
        self.heard = monotonic()

    def register(self, source: Any, events: int) -> None:
        self.unregister(source)
        self._mailbox.register(source)
        self._sources.add(source)

    def unregister(self, source: Any) -> None:
        self._sources.discard(source)
        self._mailbox.unregister(source)

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        ready = self._mailbox.wait(0)
        if ready:
            self.heard = monotonic()
        return [(source if isinstance(source, int) else source.fileno(), READ) for source in ready]

    def close(self) -> None:
        for source in tuple(self._sources):
            self.unregister(source)
