"""Which drainer serves this process: the choice that ``result_drainer`` asks for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from celery.backends import asynchronous
from celery.exceptions import ImproperlyConfigured
from celery.utils.imports import import_from_cwd
from kombu.utils.imports import symbol_by_name

from ..notices import notify
from ..spelling import PREFIX, nearest
from .base import Drainer
from .patching import LIBRARIES, obstacle, patchers, trouble

__all__ = ("check", "choose", "fitting", "ours", "threaded")

#: The drainers of this package. Importing the module of that name registers its class.
OURS = {
    "gevent": "GeventDrainer",
    "eventlet": "EventletDrainer",
    "thread": "ThreadDrainer",
}

INTERFACE = ("start", "stop", "wait_for", "drain_events_until")


def check(value: str | type, name: str = PREFIX) -> None:
    """Refuse a drainer that can never serve; import no green library for it.

    :param name: the name of the setting as the user has written it.
    :raises ImproperlyConfigured: naming the value, and what there is.
    """
    _warn_of_trouble()
    if not (isinstance(value, str) and (value in OURS or value == "auto")):
        _resolve(value, name)


def choose(value: str | type, name: str = PREFIX) -> Callable[[Any], Drainer]:
    """Return what makes the drainer for *value* in this process, as it is patched now.

    Where *value* cannot serve here, that is said in one warning, and a thread serves.
    """
    _warn_of_trouble()
    if value == "auto":
        value = _patched_by()
    if isinstance(value, str) and value in OURS:
        # Asked first, as a library is not to be imported only to hear that it has patched nothing.
        problem = obstacle(value) if value in LIBRARIES else None
        if problem:
            return _instead(value, name, problem)
        try:
            cls = ours(value)
        except ImportError as exc:
            return _instead(value, name, f"{value} cannot be imported: {exc}")
    else:
        cls = _resolve(value, name)
    if issubclass(cls, Drainer):
        problem = cls.problem()
        return _instead(value, name, problem) if problem else cls
    from .foreign import adapt

    return adapt(cls)


def threaded() -> type[Drainer]:
    """Return the drainer for processes without green threads."""
    return ours("thread")


def fitting() -> type[Drainer]:
    """Return the drainer that fits how this process is patched now, whatever is set."""
    return ours(_patched_by())


def _patched_by() -> str:
    # kombu's detect_environment() keeps its first answer for ever, so the libraries themselves
    # are asked.
    return next(iter(patchers()), "thread")


def ours(name: str) -> type[Drainer]:
    cls: type[Drainer] = getattr(import_module(f".{name}", __name__), OURS[name])
    return cls


def _resolve(value: str | type, name: str) -> type:
    cls: Any = value
    if isinstance(value, str) and value in asynchronous.drainers:
        cls = asynchronous.drainers[value]
    elif isinstance(value, str):
        cls = _imported(value, name)
    if not isinstance(cls, type) or not all(hasattr(cls, method) for method in INTERFACE):
        raise ImproperlyConfigured(_refusal(value, name))
    return cls


def _imported(path: str, name: str) -> Any:
    try:
        return symbol_by_name(path, imp=import_from_cwd)  # as Celery finds an app
    except (ImportError, AttributeError, ValueError) as exc:
        if isinstance(exc, ImportError) and not _is_missing(path, exc):
            raise ImproperlyConfigured(
                f"{name} = {path!r} cannot be imported: {type(exc).__name__}: {exc}"
            ) from exc
        raise ImproperlyConfigured(_refusal(path, name)) from exc


def _is_missing(path: str, exc: ImportError) -> bool:
    """Whether *exc* says that there is no module of that *path*, not that something in it fails."""
    missing = exc.name if isinstance(exc, ModuleNotFoundError) else None
    return missing is not None and f"{path.replace(':', '.')}.".startswith(f"{missing}.")


def _refusal(value: object, name: str) -> str:
    names = sorted({"auto", *OURS, *asynchronous.drainers})
    close = "auto" if value is True else nearest(str(value).lower(), names)
    hint = f" Did you mean {close!r}?" if close else ""
    return (
        f"{name} = {value!r} is no drainer.{hint} It takes one of {', '.join(map(repr, names))}, "
        f"the dotted path of a drainer class, or the class itself (one with "
        f"{', '.join(INTERFACE)})."
    )


def _warn_of_trouble() -> None:
    text = trouble()
    if text:
        notify(text)


def _instead(value: object, name: str, problem: str) -> type[Drainer]:
    notify(f"{name} = {value!r}, but {problem}. A thread drains the results instead.")
    return threaded()
