"""JSON as kombu decodes it, with one decoder for all results in place of a new one for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from kombu import serialization
from kombu.utils import json as kombu_json

__all__ = ("decode", "loads")

JSON = "application/json"

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

    def kombus(data: Any) -> Any:
        return serialization.loads(data, content_type, content_encoding, accept=accept)

    return decode(data, content_type, accept, kombus)


def decode(
    data: Any, content_type: str | None, accept: Any, otherwise: Callable[[Any], Any]
) -> Any:
    """The value of *data*; what is not plain JSON, or is wrong, is left to *otherwise*."""
    if data and _is_json(content_type, accept):
        try:
            text = data if isinstance(data, str) else str(data, "utf-8")
            typed = TYPED in text or ESCAPED in text
            value, end = (_decode if typed else _decode_plain)(text)
            if end == len(text):  # else there is more, such as blanks
                return value
        except Exception:
            pass  # an error raised in here would name this one as its context
    return otherwise(data)


def _is_json(content_type: str | None, accept: Any) -> bool:
    return (
        content_type == JSON
        and accept is not None
        and JSON in accept
        and _decoders.get(JSON) is kombu_json.loads
    )
