"""What RabbitMQ delivers, cut out of the bytes that come.

A message takes three frames: the method that says it is delivered, a header with its properties,
and its body. py-amqp handles each in a dozen calls, which take longer than all that a result costs
afterwards. So these are read here, and all others are left to it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from struct import Struct
from typing import Optional

from amqp import spec
from amqp.exceptions import UnexpectedFrame
from amqp.serialization import loads

from .replies import Reply

__all__ = ("Deliveries", "Frame")

#: Its type, the channel, and what is in it.
Frame = tuple[int, int, bytes]

#: Type, channel and size of a frame, and the octet that ends it.
START = Struct(">BHI")
END = 0xCE

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8

#: Class and method; after the consumer's tag, that of the delivery, and whether it was redelivered.
SIGNATURE = Struct(">HH")
DELIVERY = Struct(">QB")

#: Class, weight, size of the body, and which properties follow.
PROPERTIES = Struct(">HHQH")

#: Those properties, in their order.
CONTENT_TYPE, CONTENT_ENCODING, HEADERS = 0x8000, 0x4000, 0x2000
DELIVERY_MODE, PRIORITY, CORRELATION_ID = 0x1000, 0x0800, 0x0400

COMPRESSION = "compression"

#: Content type, content encoding, compression and correlation id of a message.
Properties = tuple[Optional[str], Optional[str], Optional[str], Optional[str]]


class Deliveries:
    """Takes the bytes of a connection, as they come, and gives away what is in them.

    :param channel: the number of the channel that is consumed over.
    :param tag: the tag of its consumer.
    :param longest: how many bytes a frame may have.
    :param receive: called with each message. Raises nothing.
    :param others: called with each other frame.
    """

    def __init__(
        self,
        channel: int,
        tag: str,
        longest: int,
        receive: Callable[[Reply], object],
        others: Callable[[Frame], object],
    ) -> None:
        self._channel = channel
        self._longest = longest
        self._receive = receive
        self._others = others
        text = tag.encode()
        self._beginning = SIGNATURE.pack(*spec.Basic.Deliver) + bytes([len(text)]) + text
        #: The tag of the last delivery that was handed over.
        self.last = 0
        #: The beginning of a frame, and how many bytes there must be before it is looked at.
        self._rest = bytearray()
        self._needed = 0
        #: What comes next of the message that is under way; METHOD: there is none.
        self._expected = METHOD
        self._tag = 0
        self._again = False
        self._properties: Properties = (None, None, None, None)
        self._parts: list[bytes] = []
        self._missing = 0

    def feed(self, data: bytes) -> None:
        """Handle all frames that have come to their end.

        :raises amqp.exceptions.UnexpectedFrame: where these are none, or not in this order.
        :raises struct.error: where one is shorter than what is to be in it.
        :raises Exception: whatever *others* raises.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        position, size, self._needed = 0, len(data), 0
        while position + START.size < size:
            kind, channel, length = START.unpack_from(data, position)
            if length > self._longest:
                raise UnexpectedFrame(
                    f"A frame of {length} bytes, where {self._longest} were agreed on."
                )
            start = position + START.size
            end = start + length
            if end >= size:
                self._needed = end + 1 - position
                break
            if data[end] != END:
                raise UnexpectedFrame(f"A frame ends with {data[end]:#x}, not with {END:#x}.")
            if channel != self._channel or not self._take(kind, data, start, end):
                self._others((kind, channel, data[start:end]))
            position = end + 1
        self._rest += data[position:]

    def _take(self, kind: int, data: bytes, start: int, end: int) -> bool:
        """Handle the frame that is *data* from *start* to *end*, if it is of a delivery."""
        if kind != self._expected:
            if self._expected == METHOD or kind == HEARTBEAT:
                return False
            raise UnexpectedFrame(
                f"A frame of type {kind} within a message, where {self._expected} was expected."
            )
        if kind == METHOD:
            if not data.startswith(self._beginning, start, end):
                return False
            self._tag, again = DELIVERY.unpack_from(data, start + len(self._beginning))
            self._again = bool(again & 1)
            self._expected = HEADER
            return True
        if kind == HEADER:
            header = data[start:end]
            self._missing = PROPERTIES.unpack_from(header)[2]
            self._properties = _properties(header)
            self._expected = BODY
        else:
            self._missing -= end - start
            if self._missing < 0:
                raise UnexpectedFrame(f"A message is {-self._missing} bytes longer than it was to.")
            self._parts.append(data[start:end])
        if not self._missing:
            self._hand_over()
        return True

    def _hand_over(self) -> None:
        parts, self._parts = self._parts, []
        self._expected = METHOD
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        body: str | bytes = data
        _, encoding, compression, _ = self._properties
        if encoding and not compression:
            with suppress(LookupError, ValueError):  # such as "binary"
                body = data.decode(encoding)  # as decoders get it from py-amqp
        self._receive(Reply(body, *self._properties, self._again))
        self.last = self._tag


def _properties(header: bytes) -> Properties:
    """What is needed of a header, as far as it can be read: who sends may be anyone."""
    found: dict[int, str | None] = {}
    with suppress(Exception):
        _read(header, found)
    return (
        found.get(CONTENT_TYPE),
        found.get(CONTENT_ENCODING),
        found.get(HEADERS),
        found.get(CORRELATION_ID),
    )


def _read(header: bytes, found: dict[int, str | None]) -> None:
    flags = PROPERTIES.unpack_from(header)[3]
    position = PROPERTIES.size
    for text in (CONTENT_TYPE, CONTENT_ENCODING):
        if flags & text:
            found[text], position = _text(header, position)
    if flags & HEADERS:
        end = position + 4 + int.from_bytes(header[position : position + 4], "big")
        if header.find(COMPRESSION.encode(), position, end) >= 0:
            (headers,), _ = loads("F", header, position)
            found[HEADERS] = headers.get(COMPRESSION)
        position = end
    position += bool(flags & DELIVERY_MODE) + bool(flags & PRIORITY)
    if flags & CORRELATION_ID:
        found[CORRELATION_ID], _ = _text(header, position)


def _text(data: bytes, position: int) -> tuple[str, int]:
    """A text whose length comes first, and where it ends."""
    start = position + 1
    end = start + data[position]
    # An id may be any text of Python, and py-amqp sends all of it.
    return str(data[start:end], "utf-8", "surrogatepass"), end
