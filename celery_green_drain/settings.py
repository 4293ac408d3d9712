"""Every ``result_drainer*`` setting: its name, its default, its check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from celery.exceptions import ImproperlyConfigured

from .spelling import PREFIX, Spelling

__all__ = ("Settings",)


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

    #: Calls to a polled store that may be under way at once.
    parallel: int = 10

    #: Seconds that the end of the process waits for callbacks that are pending; 0: not at all.
    exit_timeout: float = 2.0

    #: The names of those that are set, as the user has written them, by their fields.
    written: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, conf: Any) -> Settings:
        """Read and check the settings in ``conf``, Celery's ``app.conf``.

        A name that only comes near one of ours may be somebody else's, so that is a warning.

        :raises ImproperlyConfigured: for an unknown name or an impossible value.
        """
        names = {_setting(each.name): each.name for each in fields(cls) if each.compare}
        spelling = Spelling(conf, list(names))
        given = {name: (key, value) for name, key, value in spelling.given()}
        for name, (key, _) in given.items():
            if name not in names:
                raise ImproperlyConfigured(spelling.unknown(name, key))
        spelling.warn_of_strangers()
        written = {names[name]: key for name, (key, _) in given.items()}
        values = {names[name]: value for name, (_, value) in given.items()}
        drainer = values.pop("drainer", None) or None
        checked: dict[str, Any] = {}
        for key, value in values.items():
            check: Callable[[str, Any], Any] = CHECKS.get(key, _seconds)
            checked[key] = check(written[key], value)
        settings = cls(drainer, written=written, **checked)
        if settings.poll_min > settings.poll_max:
            raise ImproperlyConfigured(
                f"{settings.name_of('poll_min')} = {settings.poll_min:g} is more than "
                f"{settings.name_of('poll_max')} = {settings.poll_max:g}: raise the one or lower "
                f"the other."
            )
        return settings

    @classmethod
    def strangers(cls, conf: Any) -> list[str]:
        """Say of each name in ``conf`` that only comes near one of ours what it is near to."""
        names = [_setting(each.name) for each in fields(cls) if each.compare]
        return list(Spelling(conf, names).strangers())

    def name_of(self, key: str) -> str:
        """The name of the setting behind the field *key*, as the user has written it."""
        return self.written.get(key, _setting(key))


def _setting(key: str) -> str:
    return PREFIX if key == "drainer" else f"{PREFIX}_{key}"


def _seconds(name: str, value: Any, least: str = "") -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0 < value < float("inf")
    ):
        raise ImproperlyConfigured(
            f"{name} = {value!r}: expected a number of seconds greater than 0{least}."
        )
    return float(value)


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ImproperlyConfigured(f"{name} = {value!r}: expected a whole number above 0.")
    return value


def _choice(name: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise ImproperlyConfigured(
            f"{name} = {value!r}: expected True, False, or None for what suits the store."
        )
    return value


def _seconds_or_zero(name: str, value: Any) -> float:
    if value == 0 and not isinstance(value, bool):
        return 0.0
    return _seconds(name, value, ", or 0")


#: How each setting is checked that is no number of seconds: by its name and its value.
CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "buffer": _count,
    "parallel": _count,
    "exit_timeout": _seconds_or_zero,
    "threads": _choice,
}
