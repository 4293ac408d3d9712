"""What is cut out of the bytes that a broker of AMQP sends, without one."""

from __future__ import annotations

import struct
from struct import pack
from typing import Any

import pytest
from amqp import spec
from amqp.exceptions import UnexpectedFrame
from amqp.serialization import dumps

from celery_green_drain.consumers.rpc.deliveries import Deliveries, Frame
from celery_green_drain.consumers.rpc.replies import Reply

CHANNEL, TAG = 1, "the queue's name"

#: Content type, content encoding, headers, how it is delivered, priority, whose it is.
FLAGS = 0xFC00
PROPERTIES = dumps("ssFoos", ("application/json", "utf-8", {}, 2, 0, "abc"))

HEARTBEAT = (8, 0, b"")
FLOW = (1, CHANNEL, pack(">HHB", *spec.Channel.Flow, 1))


class Read:
    """What came out."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.others: list[Frame] = []
        self.deliveries = Deliveries(CHANNEL, TAG, 1000, self.replies.append, self.others.append)


@pytest.fixture
def read() -> Read:
    return Read()


def stream(*frames: Frame) -> bytes:
    return b"".join(
        pack(">BHI", kind, channel, len(data)) + data + b"\xce" for kind, channel, data in frames
    )


def method(number: int = 1, again: bool = False, tag: str = TAG) -> Frame:
    arguments = dumps("sLbss", (tag, number, again, "", "key"))
    return 1, CHANNEL, pack(">HH", *spec.Basic.Deliver) + arguments


def header(size: int, properties: bytes = PROPERTIES, flags: int = FLAGS) -> Frame:
    return 2, CHANNEL, pack(">HHQH", spec.Basic.CLASS_ID, 0, size, flags) + properties


def message(body: bytes, number: int = 1, **given: Any) -> tuple[Frame, Frame, Frame]:
    return method(number), header(len(body), **given), (3, CHANNEL, body)


def reply(body: bytes, **given: Any) -> Reply:
    return Reply(body.decode(), "application/json", "utf-8", None, "abc", False)._replace(**given)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 50, 1000])
def test_whatever_the_bytes_come_in(read: Read, size: int) -> None:
    bodies = [b"%d" % number * number for number in range(1, 20)]
    data = b"".join(stream(*message(body, number)) for number, body in enumerate(bodies, 1))
    for start in range(0, len(data), size):
        read.deliveries.feed(data[start : start + size])
    assert read.replies == [reply(body) for body in bodies]
    assert read.deliveries.last == len(bodies)
    assert not read.others


def test_all_that_is_no_delivery_is_left_to_others(read: Read) -> None:
    elsewhere = (1, 0, pack(">HH", *spec.Connection.Blocked) + b"\0")
    for frame in (HEARTBEAT, FLOW, elsewhere):
        read.deliveries.feed(stream(frame, *message(b"x"), frame))
    assert read.others == [HEARTBEAT, HEARTBEAT, FLOW, FLOW, elsewhere, elsewhere]
    assert read.replies == [reply(b"x")] * 3


def test_so_is_a_message_of_another_consumer(read: Read) -> None:
    frames = method(tag="another"), header(1), (3, CHANNEL, b"x")
    read.deliveries.feed(stream(*frames))
    assert read.others == list(frames)
    assert not read.replies


def test_a_body_in_pieces(read: Read) -> None:
    first, second = (3, CHANNEL, b"x" * 1000), (3, CHANNEL, b"y")
    data = stream(method(), header(1001), HEARTBEAT, first, HEARTBEAT, second)
    read.deliveries.feed(data[:-2])
    assert not read.replies
    assert read.deliveries.last == 0
    read.deliveries.feed(data[-2:])
    assert read.replies == [reply(b"x" * 1000 + b"y")]
    assert read.others == [HEARTBEAT, HEARTBEAT]


def test_no_body(read: Read) -> None:
    read.deliveries.feed(stream(method(1), header(0), method(2, again=True), header(0)))
    assert read.replies == [reply(b""), reply(b"", again=True)]
    assert read.deliveries.last == 2


@pytest.mark.parametrize(
    ("flags", "properties", "expected"),
    [
        (0, b"", {"content_type": None, "content_encoding": None, "task_id": None}),
        (
            0x0400,
            dumps("s", ("é",)),
            {"content_type": None, "content_encoding": None, "task_id": "é"},
        ),
        (0x2400, dumps("Fs", ({"compression": "gzip", "a": 1}, "b")), {"compression": "gzip"}),
        (0x2400, dumps("Fs", ({"trace": "compression"}, "b")), {"compression": None}),
        # Any text of Python may be an id.
        (0x0400, dumps("s", ("a\ud800",)), {"task_id": "a\ud800"}),
        # As far as it can be read.
        (0x8000, b"\x05ab", {"content_type": "ab"}),
        (0x8400, b"\x02\xff\xfe\x01a", {"content_type": None, "task_id": None}),
        (0x8400, b"\x02ab\x01\xff", {"content_type": "ab", "task_id": None}),
        (0x2400, b"\0\0\0\x0c\x0bcompression\x01b", {"compression": None, "task_id": None}),
        (0x2400, b"\xff\xff\xff\xff", {"compression": None, "task_id": None}),
    ],
)
def test_properties(read: Read, flags: int, properties: bytes, expected: dict[str, object]) -> None:
    read.deliveries.feed(stream(*message(b"x", flags=flags, properties=properties)))
    (came,) = read.replies
    assert came.body in ("x", b"x")
    assert {name: getattr(came, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("utf-8", "é"), ("latin-1", "é"), ("utf-16", "é"), ("", None), ("binary", None), ("no", None)],
)
def test_decoders_get_text_where_its_encoding_is_named(
    read: Read, encoding: str, body: str | None
) -> None:
    data = b"\xff" if body is None else body.encode(encoding)
    read.deliveries.feed(stream(*message(data, flags=0x4000, properties=dumps("s", (encoding,)))))
    assert read.replies[0].body == (data if body is None else body)


def test_what_is_compressed_is_no_text(read: Read) -> None:
    properties = dumps("sF", ("latin-1", {"compression": "gzip"}))
    read.deliveries.feed(stream(*message(b"x", flags=0x6000, properties=properties)))
    assert read.replies[0].body == b"x"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (stream((1, CHANNEL, b"x" * 1001)), "1001 bytes, where 1000"),
        (stream(HEARTBEAT)[:-1] + b"\0" + stream(HEARTBEAT), "ends with 0x0, not with 0xce"),
        (stream(method(), method()), "type 1 within a message, where 2"),
        (stream(method(), (3, CHANNEL, b"x")), "type 3 within a message, where 2"),
        (stream(method(), header(2), method()), "type 1 within a message, where 3"),
        (stream(method(), header(1), (3, CHANNEL, b"xy")), "1 bytes longer"),
    ],
)
def test_out_of_step(read: Read, data: bytes, what: str) -> None:
    with pytest.raises(UnexpectedFrame, match=what):
        read.deliveries.feed(data)
    assert not read.replies


def test_half_a_header_is_not_read_on_in_the_next_frame(read: Read) -> None:
    with pytest.raises(struct.error):
        read.deliveries.feed(stream(method(), (2, CHANNEL, b"x"), *message(b"y")))
    assert not read.replies
