"""The reply queue over AMQP: py-amqp's connection, read in large pieces and never blocking.

py-amqp itself reads a message in nine calls, and spins where it has half a frame and the
socket does not block. So what comes is read here, see :mod:`~.deliveries`.
"""

from __future__ import annotations

import math
import os
from contextlib import ExitStack, suppress
from typing import Any

import kombu
from amqp import spec
from amqp.exceptions import AMQPError, RecoverableConnectionError

from ... import forks
from ...clock import monotonic
from ...drainers.base import TURN
from ...sockets import not_blocking, nothing_there
from .deliveries import Deliveries
from .replies import Replies, RpcSession

__all__ = ("AmqpSession",)

#: Bytes read at once.
CHUNK = 128 * 1024

#: Longest frame, in bytes, where the broker names no limit.
LONGEST = 128 * 1024 * 1024

#: Seconds that the broker has to agree to the end of a connection.
FAREWELL = 1.0


class AmqpSession(RpcSession):
    """See the module."""

    def __init__(self, connection: kombu.Connection, replies: Replies) -> None:
        self._mailbox = replies.mailbox
        self._connection = connection
        self._pid = os.getpid()
        self._socket: Any = None
        #: Whether more may be there: at first, as some may have come with the answer before, and
        #: after a whole chunk.
        self._more = True
        #: The tag of the last delivery that the broker knows to be handed over.
        self._acknowledged = 0
        with ExitStack() as opened:
            opened.callback(self._abort)
            # Each broker of a list in turn, without a pause: the drainer makes those.
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            self._amqp = connection.connection
            self._socket = self._amqp.sock
            self._pending = getattr(self._socket, "pending", None)
            patience = max(replies.heartbeat, connection.connect_timeout or 0)
            self._socket.settimeout(patience)
            self._channel = connection.channel()
            self._queue = replies.declare(self._channel)
            self._deliveries = Deliveries(
                self._channel.channel_id,
                self._queue.name,
                self._amqp.frame_max or LONGEST,
                replies.receive,
                self._amqp.on_inbound_frame,
            )
            # Nothing is called back: what comes to this tag is cut out before.
            self._queue.consume(self._queue.name, callback=None, no_ack=False)
            self._mailbox.register(self._socket)
            opened.callback(self._mailbox.unregister, self._socket)
            self._heard = self._said = monotonic()
            self._opened = opened.pop_all()

    def __repr__(self) -> str:
        return f"<AmqpSession: {self._deliveries.last} messages>"

    def close(self) -> None:
        self._opened.close()

    def _abort(self) -> None:
        if os.getpid() != self._pid:
            forks.keep(self)  # a copy of the loop that was just connecting
            return
        if self._socket is not None:
            # With TLS it would wait for the broker's farewell.
            with suppress(OSError):
                self._socket.settimeout(0)
        self._connection.collect()

    def leave(self, delete: bool) -> None:
        with suppress(AMQPError, OSError):
            if delete:
                self._channel.queue_delete(self._queue.name, nowait=True)
            self._amqp.send_method(spec.Connection.Close, "BsBB", (0, "", 0, 0))
            deadline = monotonic() + FAREWELL
            while self._amqp.connected and monotonic() < deadline:
                self.turn(deadline - monotonic())
        self.close()

    def turn(self, timeout: float | None) -> None:
        ready = self._mailbox.wait(self._patience(timeout))
        if ready or self._held_back or self._is_silent():
            self._read()
        self._look_after(monotonic())
        self._mailbox.look()  # others may have run, where a write had to wait

    # -- what arrives

    def _read(self) -> None:
        """Handle one piece of what is there, so that notes and others have their turn."""
        data = self._receive_bytes()
        self._more = data is not None and len(data) == CHUNK
        if data is None:
            return
        self._heard = monotonic()
        self._deliveries.feed(data)
        self._acknowledge()

    @property
    def _held_back(self) -> bool:
        """Whether something is there, or may be, that nobody has to wait for."""
        return self._more or (self._pending is not None and self._pending() > 0)

    def _receive_bytes(self) -> bytes | None:
        try:
            with not_blocking(self._socket):
                data: bytes = self._socket.recv(CHUNK)
        except OSError as exc:
            if nothing_there(exc):
                return None
            raise
        if not data:
            raise RecoverableConnectionError("The broker closed the connection.")
        return data

    def _acknowledge(self) -> None:
        last = self._deliveries.last
        if self._acknowledged != last:
            self._acknowledged = last
            self._channel.basic_ack(last, multiple=True)

    # -- the health of the connection

    def _patience(self, timeout: float | None) -> float:
        """How long to wait for something to arrive, in seconds."""
        if self._held_back:
            return 0.0
        now = monotonic()
        waits = [self._said + self._interval - now, self._heard + 3 * self._interval - now]
        return max(0.0, min(TURN if timeout is None else timeout, *waits))

    @property
    def _interval(self) -> float:
        """Seconds between two heartbeats: both sides send two in the time they agreed on."""
        interval: float = self._amqp.heartbeat / 2
        return interval or math.inf  # they agreed on none

    def _is_silent(self) -> bool:
        """Whether nothing was read for too long: perhaps only as this greenlet could not run."""
        return monotonic() - self._heard >= 3 * self._interval

    def _look_after(self, now: float) -> None:
        if self._is_silent():
            raise RecoverableConnectionError(
                f"The broker has sent no heartbeat for {now - self._heard:.1f} s."
            )
        if now - self._said >= self._interval:
            self._said = now
            self._amqp.send_heartbeat()
