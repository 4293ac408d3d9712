"""JSON as kombu decodes it, with one decoder for all results in place of a new one for each."""

from __future__ import annotations

import json
from typing import Any

from celery import states
from kombu import serialization
from kombu.utils import json as kombu_json

__all__ = ("JSON", "NOT_PLAIN", "SUCCESS", "is_on_the_way", "loads", "plain")

JSON = "application/json"

#: What there is in the JSON of each state, and of the last ones.
STATUS = b'"status"'
SUCCESS = b'"SUCCESS"'
LAST = [b'"%s"' % state.encode() for state in states.READY_STATES]

#: In place of a value.
NOT_PLAIN = object()

#: Content type → decoder. A private name of kombu, which has no other way to tell whether its own
#: decoder was replaced by a user's. Without it kombu decodes all, which takes longer.
_decoders: dict[str, Any] = getattr(serialization.registry, "_decoders", {})

#: In the text of a value that may be of a type that kombu has added to JSON, or be escaped.
TYPED, ESCAPED = "__type__", "\\u"

_decode = json.JSONDecoder(object_hook=kombu_json.object_hook).raw_decode

#: The same for all others, which kombu need not see object by object.
_decode_plain = json.JSONDecoder().raw_decode


def loads(data: Any, content_type: str | None, content_encoding: str | None, accept: Any) -> Any:
    """What ``kombu.serialization.loads()`` returns, and raises."""
    value = plain(data, content_type, accept)
    if value is NOT_PLAIN:
        return serialization.loads(data, content_type, content_encoding, accept=accept)
    return value


def plain(data: Any, content_type: str | None, accept: Any) -> Any:
    """The value of *data*; :data:`NOT_PLAIN` where it is no JSON, or wrong, as others may say."""
    if (
        content_type == JSON
        and data
        and accept is not None
        and JSON in accept
        and _decoders.get(JSON) is kombu_json.loads
    ):
        try:
            text = data if isinstance(data, str) else str(data, "utf-8")
            typed = TYPED in text or ESCAPED in text
            value, end = (_decode if typed else _decode_plain)(text)
            if end == len(text):  # else there is more, such as blanks
                return value
        except Exception:
            pass  # an error raised in here would name this one as its context
    return NOT_PLAIN


def is_on_the_way(data: bytes) -> bool:
    """Whether *data*, which is JSON unless it is compressed, tells a state that is not the last.

    Found out without reading it, so where in doubt it does not.
    """
    return not (
        SUCCESS in data  # which most are
        or any(map(data.__contains__, LAST))
        or b"\\u" in data
        or STATUS not in data
        or not data.endswith(b"}")
        or not data.isascii()
    )
