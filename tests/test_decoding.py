"""Results are decoded as kombu does it, only faster."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import states
from kombu import serialization
from kombu.compression import compress
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.utils import json as kombu_json

from celery_green_drain.consumers import decoding
from celery_green_drain.consumers.decoding import JSON, is_on_the_way, loads


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What kombu itself was asked to decode."""
    asked: list[Any] = []

    def noting(data: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(data)
        return serialization.registry.loads(data, *args, **kwargs)

    monkeypatch.setattr(serialization, "loads", noting)
    return asked


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, bytes.decode])
def test_json_needs_no_decoder_of_its_own(slow: list[Any], kind: Any) -> None:
    # This fails where the private name has gone: then all is decoded the slow way.
    text = json.dumps({"a": [1, {"__type__": "bytes", "__value__": "b"}], "é": None}).encode()
    assert loads(kind(text), JSON, "utf-8", {JSON}) == {"a": [1, b"b"], "é": None}
    assert slow == []


@pytest.mark.parametrize(
    "text",
    [
        '{"__type__": "bytes", "__value__": "b"}',
        r'{"\u005f_type__": "bytes", "__value__": "b"}',
        r'[{"a": "\"\\\n"}, {"a": 1}, 1e3]',
    ],
)
def test_json_means_what_it_means_to_kombu(slow: list[Any], text: str) -> None:
    assert loads(text, JSON, "utf-8", {JSON}) == serialization.registry.loads(text, JSON, "utf-8")
    assert slow == []


def test_a_serializer_of_the_user_is_used(slow: list[Any]) -> None:
    serialization.register("json", json.dumps, lambda data: "the user's", JSON, "utf-8")
    try:
        assert loads(b"{}", JSON, "utf-8", {JSON}) == "the user's"
    finally:
        serialization.register_json()
    assert slow == [b"{}"]


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 200_000])
def test_errors_are_those_of_kombu(data: bytes) -> None:
    with pytest.raises(DecodeError) as kombus:
        serialization.loads(data, JSON, "utf-8", accept={JSON})
    with pytest.raises(DecodeError) as ours:
        loads(data, JSON, "utf-8", {JSON})
    assert str(ours.value) == str(kombus.value)
    assert type(ours.value.__cause__) is type(kombus.value.__cause__)
    assert type(ours.value.__context__) is type(kombus.value.__context__)


def test_what_is_not_accepted_is_refused() -> None:
    with pytest.raises(ContentDisallowed):
        loads(b"{}", JSON, "utf-8", {"application/x-yaml"})


def test_nothing_is_nothing() -> None:
    assert loads(b"", JSON, "utf-8", {JSON}) == b""


@pytest.mark.parametrize("accept", [None, {JSON}])
def test_without_the_private_name_kombu_decodes(
    monkeypatch: pytest.MonkeyPatch, slow: list[Any], accept: Any
) -> None:
    if accept:
        monkeypatch.setattr(decoding, "_decoders", {})
    assert loads(b"[1]", JSON, "utf-8", accept) == [1]
    assert slow == [b"[1]"]


@pytest.mark.parametrize("status", ["PENDING", "STARTED", "PROGRESS", "RETRY", "ALL BUT SUCCESS"])
def test_states_on_the_way_are_known_unread(status: str) -> None:
    assert is_on_the_way(kombu_json.dumps({"status": status, "task_id": "x"}).encode())


@pytest.mark.parametrize("status", states.READY_STATES)
def test_no_last_state_is_taken_for_one(status: str) -> None:
    text = kombu_json.dumps({"status": status, "task_id": "x"})
    escaped = text.replace(status, "".join(f"\\u{ord(letter):04x}" for letter in status))
    assert json.loads(escaped) == json.loads(text)
    for way in (text, text.replace(" ", ""), json.dumps(json.loads(text), indent=1), escaped):
        assert not is_on_the_way(way.encode())


@pytest.mark.parametrize("method", ["gzip", "bzip2"])
def test_nor_is_what_may_be_no_json(method: str) -> None:
    text = json.dumps({"status": "PROGRESS", "result": "é"}, ensure_ascii=False).encode()
    compressed, _ = compress(text, method)
    for data in (text, compressed, b"{", b"{}", b"[1]", b'{"status": "SUC', b""):
        assert not is_on_the_way(data)
