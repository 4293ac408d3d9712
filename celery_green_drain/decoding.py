"""JSON as kombu decodes it, with one decoder for all results in place of a new one for each."""

from __future__ import annotations

import json
from typing import Any

from kombu import serialization
from kombu.utils import json as kombu_json

__all__ = ("decode_json", "loads")

JSON = "application/json"

#: Content type → decoder. A private name of kombu, which has no other way to tell whether its own
#: decoder was replaced by a user's. Without it kombu decodes all, which takes longer.
_decoders: dict[str, Any] = getattr(serialization.registry, "_decoders", {})

_decode = json.JSONDecoder(object_hook=kombu_json.object_hook).decode


def decode_json(data: Any, content_type: str | None, accept: Any) -> Any:
    """What kombu would return for *data*.

    :raises Exception: where it is something else, or wrong. Kombu knows what to do then.
    """
    if content_type != JSON or JSON not in accept or _decoders.get(JSON) is not kombu_json.loads:
        raise ValueError("Not for this decoder.")
    return _decode(data if isinstance(data, str) else str(data, "utf-8"))


def loads(data: Any, content_type: str | None, content_encoding: str | None, accept: Any) -> Any:
    """What ``kombu.serialization.loads()`` returns, and raises."""
    try:
        return decode_json(data, content_type, accept)
    except Exception:
        pass  # not raised in here, or what kombu raises would name it as its context
    return serialization.loads(data, content_type, content_encoding, accept=accept)
