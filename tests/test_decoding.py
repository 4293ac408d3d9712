"""Results are decoded as kombu does it, only faster."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kombu import serialization
from kombu.exceptions import ContentDisallowed, DecodeError

from celery_green_drain.consumers import decoding
from celery_green_drain.consumers.decoding import JSON, loads


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
