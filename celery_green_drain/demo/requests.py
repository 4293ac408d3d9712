"""What a request asks for."""

from __future__ import annotations

from flask import abort, request

__all__ = ("number",)


def number(name: str, default: float | None = None, low: float = -1e9, high: float = 1e9) -> float:
    """The number that the request gives as *name*; whatever else it gives is refused."""
    try:
        value = float(request.values.get(name, default))
    except (TypeError, ValueError):
        value = float("nan")
    if not low <= value <= high:
        abort(400, f"{name}: a number from {low:.15g} to {high:.15g} is needed.")
    return value
