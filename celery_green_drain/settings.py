"""Every ``result_drainer*`` setting: its name, its default, its check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from celery.exceptions import ImproperlyConfigured

__all__ = ("Settings",)

PREFIX = "result_drainer"


@dataclass(frozen=True)
class Settings:
    """The settings of one Celery app.

    ``drainer`` is the setting ``result_drainer`` itself, each other field the
    setting ``result_drainer_<field>``.
    """

    #: Which drainer serves: a name, a dotted path, a class; None: this package is off.
    drainer: str | type | None = None

    #: Seconds of silence after which a connection is asked whether it still lives.
    #: It has as long again to answer.
    heartbeat: float = 10.0

    #: Longest pause between two attempts to reconnect, in seconds.
    retry_max: float = 30.0

    #: Seconds between two looks at the store for results whose message may be lost.
    reconcile_interval: float = 60.0

    #: Results that are kept, of those that came over a message queue and nobody has asked for.
    buffer: int = 10_000

    #: Seconds between two looks at a polled store while results come or waits begin.
    poll_min: float = 0.05

    #: The same where nothing has moved for a while.
    poll_max: float = 0.5

    #: Whether a polled store is called in native threads; None: where its driver blocks.
    threads: bool | None = None

    @classmethod
    def of(cls, conf: Any) -> Settings:
        """Read and check the settings in ``conf``, Celery's ``app.conf``.

        :raises ImproperlyConfigured: for an unknown name or an impossible value.
        """
        given = dict(_given(conf))
        names = {_setting(field.name): field.name for field in fields(cls)}
        for name in given:
            if name not in names:
                raise ImproperlyConfigured(_unknown(name, list(names)))
        values = {names[name]: value for name, value in given.items()}
        drainer = values.pop("drainer", None) or None
        checked: dict[str, Any] = {
            key: CHECKS[key](key, value) if key in CHECKS else _seconds(key, value)
            for key, value in values.items()
        }
        settings = cls(drainer, **checked)
        if settings.poll_min > settings.poll_max:
            raise ImproperlyConfigured(
                f"{_setting('poll_min')} = {settings.poll_min:g} is more than "
                f"{_setting('poll_max')} = {settings.poll_max:g}: raise the one or lower the other."
            )
        return settings


def _setting(field: str) -> str:
    return PREFIX if field == "drainer" else f"{PREFIX}_{field}"


def _given(conf: Any) -> Iterator[tuple[str, Any]]:
    """The settings that are ours, by their new-style names.

    Celery translates the spellings (a namespace, old upper case) of its own
    settings only, so ours are found by the name's end.
    """
    conf.finalize() if hasattr(conf, "finalize") else None
    prefixes = {"", "celery_", (getattr(conf, "prefix", None) or "").lower()}
    maps: list[Mapping[str, Any]] = list(getattr(conf, "maps", [conf]))
    for mapping in reversed(maps):  # the first map wins, so it comes last
        for key in list(mapping.keys()):
            name = str(key).lower()
            head, found, tail = name.partition(PREFIX)
            if found and head in prefixes:
                yield found + tail, mapping[key]


def _unknown(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Unknown setting {name!r}.{hint} There are: {', '.join(known)}."


def _seconds(key: str, value: Any) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0 < value < float("inf")
    ):
        raise ImproperlyConfigured(
            f"{_setting(key)} = {value!r}: expected a number of seconds greater than 0."
        )
    return float(value)


def _count(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ImproperlyConfigured(f"{_setting(key)} = {value!r}: expected a whole number above 0.")
    return value


def _choice(key: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise ImproperlyConfigured(
            f"{_setting(key)} = {value!r}: expected True, False, or None for what suits the store."
        )
    return value


#: How each setting is checked that is no number of seconds.
CHECKS: dict[str, Callable[[str, Any], Any]] = {"buffer": _count, "threads": _choice}
