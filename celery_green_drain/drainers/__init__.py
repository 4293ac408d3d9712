"""Which drainer serves this process: the choice that ``result_drainer`` asks for."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

from celery.backends import asynchronous
from celery.exceptions import ImproperlyConfigured
from kombu.utils.imports import symbol_by_name

from ..errors import DrainerWarning
from .base import Drainer

__all__ = ("check", "choose", "fitting")

#: The drainers of this package. Importing the module of that name registers its class.
OURS = {
    "gevent": "GeventDrainer",
    "eventlet": "EventletDrainer",
    "thread": "ThreadDrainer",
}

INTERFACE = ("start", "stop", "wait_for", "drain_events_until")


def check(value: str | type) -> None:
    """Refuse a ``result_drainer`` that can never serve; import no green library for it.

    :raises ImproperlyConfigured: naming the value, and what there is.
    """
    if not (isinstance(value, str) and (value in OURS or value == "auto")):
        _resolve(value)


def choose(value: str | type) -> Callable[[Any], Drainer]:
    """Return what makes the drainer for *value* in this process, as it is patched now.

    Where *value* cannot serve here, that is said in one warning, and a thread serves.
    """
    if value == "auto":
        value = _patched_by()
    if isinstance(value, str) and value in OURS:
        try:
            cls = _ours(value)
        except ImportError as exc:
            return _instead(value, f"{exc} (pip install 'celery-green-drain[{value}]')")
    else:
        cls = _resolve(value)
    if issubclass(cls, Drainer):
        problem = cls.problem()
        return _instead(value, problem) if problem else cls
    from .foreign import adapt

    return adapt(cls)


def threaded() -> type[Drainer]:
    """Return the drainer for processes without green threads."""
    return _ours("thread")


def fitting() -> type[Drainer]:
    """Return the drainer that fits how this process is patched now, whatever is set."""
    return _ours(_patched_by())


def _patched_by() -> str:
    # kombu's detect_environment() keeps its first answer for ever, so the libraries
    # themselves are asked; one that is not imported has patched nothing.
    for name, module in (("gevent", "gevent.monkey"), ("eventlet", "eventlet.patcher")):
        if module in sys.modules and _ours(name).problem() is None:
            return name
    return "thread"


def _ours(name: str) -> type[Drainer]:
    cls: type[Drainer] = getattr(import_module(f".{name}", __name__), OURS[name])
    return cls


def _resolve(value: str | type) -> type:
    cls: Any = value
    if isinstance(value, str) and value in asynchronous.drainers:
        cls = asynchronous.drainers[value]
    elif isinstance(value, str):
        try:
            cls = symbol_by_name(value)
        except (ImportError, AttributeError, ValueError) as exc:
            raise ImproperlyConfigured(_refusal(value)) from exc
    if not isinstance(cls, type) or not all(hasattr(cls, name) for name in INTERFACE):
        raise ImproperlyConfigured(_refusal(value))
    return cls


def _refusal(value: object) -> str:
    names = sorted({"auto", *OURS, *asynchronous.drainers})
    return (
        f"result_drainer = {value!r} is no drainer. It takes one of {', '.join(map(repr, names))}, "
        f"the dotted path of a drainer class, or the class itself (one with "
        f"{', '.join(INTERFACE)})."
    )


_warned: set[str] = set()


def _instead(value: object, problem: str) -> type[Drainer]:
    text = f"result_drainer = {value!r}, but {problem}. A thread drains the results instead."
    if text not in _warned:
        _warned.add(text)
        warnings.warn(text, DrainerWarning, stacklevel=2)
    return _ours("thread")
