"""The reply queue over AMQP: py-amqp's protocol, read in large pieces and never blocking.

py-amqp itself reads a message in nine calls, and spins where it has half a frame and the
socket does not block. So its frames are cut here, and handed to it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from struct import Struct
from typing import Any

import kombu
from amqp import spec
from amqp.exceptions import AMQPError, RecoverableConnectionError, UnexpectedFrame

from .. import forks
from ..drainers.base import TURN
from .replies import Replies, RpcSession
from .session import not_blocking, nothing_there

__all__ = ("AmqpSession",)

#: Bytes read at once.
CHUNK = 128 * 1024

#: Longest frame, in bytes, where the broker names no limit.
LONGEST = 128 * 1024 * 1024

#: Seconds that the broker has to agree to the end of a connection.
FAREWELL = 1.0

#: Type, channel and size of a frame, and the octet that ends it.
HEADER = Struct(">BHI")
END = 0xCE


class AmqpSession(RpcSession):
    """See the module."""

    def __init__(self, connection: kombu.Connection, replies: Replies) -> None:
        self._mailbox = replies.mailbox
        self._receive = replies.receive
        self._connection = connection
        self._pid = os.getpid()
        self._socket: Any = None
        #: Whether more may be there: at first, as some may have come with the answer before, and
        #: after a whole chunk.
        self._more = True
        #: The beginning of a frame, and how many bytes there must be before it is looked at.
        self._rest = bytearray()
        self._needed = 0
        #: Delivery tags: of what was handed over, and of what the broker knows of.
        self._handed_over = self._acknowledged = 0
        with ExitStack() as opened:
            opened.callback(self._abort)
            # Each broker of a list in turn, without a pause: the drainer makes those.
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            self._amqp = connection.connection
            self._socket = self._amqp.sock
            self._pending = getattr(self._socket, "pending", None)
            self._longest = self._amqp.frame_max or LONGEST
            patience = max(replies.heartbeat, connection.connect_timeout or 0)
            self._socket.settimeout(patience)
            self._channel = connection.channel()
            replies = replace(replies, receive=self._on_message)
            self._queue = replies.consume(self._channel)
            self._mailbox.register(self._socket)
            opened.callback(self._mailbox.unregister, self._socket)
            self._heard = self._said = time.monotonic()
            self._opened = opened.pop_all()

    def __repr__(self) -> str:
        return f"<AmqpSession: {self._handed_over} messages>"

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
            deadline = time.monotonic() + FAREWELL
            while self._amqp.connected and time.monotonic() < deadline:
                self.turn(deadline - time.monotonic())
        self.close()

    def turn(self, timeout: float | None) -> None:
        ready = self._mailbox.wait(self._patience(timeout))
        if ready or self._held_back or self._is_silent():
            self._read()
        self._look_after(time.monotonic())
        self._mailbox.look()  # others may have run, where a write had to wait

    # -- what arrives

    def _read(self) -> None:
        """Handle one piece of what is there, so that notes and others have their turn."""
        data = self._receive_bytes()
        self._more = data is not None and len(data) == CHUNK
        if data is None:
            return
        self._heard = time.monotonic()
        for frame in self._frames(data):
            self._amqp.on_inbound_frame(frame)
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

    def _frames(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        start, size, self._needed = 0, len(data), 0
        while start + HEADER.size < size:
            kind, channel, length = HEADER.unpack_from(data, start)
            if length > self._longest:
                raise UnexpectedFrame(
                    f"A frame of {length} bytes, where {self._longest} were agreed on."
                )
            body = start + HEADER.size
            end = body + length
            if end >= size:
                self._needed = end + 1 - start
                break
            if data[end] != END:
                raise UnexpectedFrame(f"A frame ends with {data[end]:#x}, not with {END:#x}.")
            yield kind, channel, data[body:end]
            start = end + 1
        self._rest += data[start:]

    def _on_message(self, message: Any) -> None:
        self._receive(message)
        self._handed_over = message.delivery_tag

    def _acknowledge(self) -> None:
        if self._acknowledged != self._handed_over:
            self._acknowledged = self._handed_over
            self._channel.basic_ack(self._handed_over, multiple=True)

    # -- the health of the connection

    def _patience(self, timeout: float | None) -> float:
        """How long to wait for something to arrive, in seconds."""
        if self._held_back:
            return 0.0
        now = time.monotonic()
        waits = [self._said + self._interval - now, self._heard + 3 * self._interval - now]
        return max(0.0, min(TURN if timeout is None else timeout, *waits))

    @property
    def _interval(self) -> float:
        """Seconds between two heartbeats: both sides send two in the time they agreed on."""
        interval: float = self._amqp.heartbeat / 2
        return interval or math.inf  # they agreed on none

    def _is_silent(self) -> bool:
        """Whether nothing was read for too long: perhaps only as this greenlet could not run."""
        return time.monotonic() - self._heard >= 3 * self._interval

    def _look_after(self, now: float) -> None:
        if self._is_silent():
            raise RecoverableConnectionError(
                f"The broker has sent no heartbeat for {now - self._heard:.1f} s."
            )
        if now - self._said >= self._interval:
            self._said = now
            self._amqp.send_heartbeat()
