"""Checks of the configuration and of what is installed. They ask no server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import requires
from importlib.util import find_spec
from typing import Any

from celery.backends.base import DisabledBackend
from celery.exceptions import ImproperlyConfigured

from ..addresses import masked
from ..backends.base import DrainedBackendMixin
from ..drainers.patching import LIBRARIES
from ..quoting import one_line
from ..settings import Settings
from .findings import Finding
from .process import NAME, installed

__all__ = ("check_packages", "check_settings")

#: Seconds below which result_expires is a mistake.
SOON = 60


def check_settings(app: Any) -> Iterator[Finding]:
    """Look at the settings of *app*, of this package and of Celery."""
    conf = app.conf
    yield from (Finding("GD003", text) for text in Settings.strangers(conf))
    try:
        if Settings.of(conf).drainer is None:
            yield Finding("GD001", "result_drainer is not set.")
        else:
            yield from _backend(app)
    except (ImproperlyConfigured, ImportError) as exc:
        yield Finding("GD002", str(exc))
    except Exception as exc:  # of the store, which some backends ask when they are made
        yield Finding("GD211", f"{masked(conf.result_backend)}: {one_line(exc)}")
    if conf.task_ignore_result:
        yield Finding("GD006", "task_ignore_result is set.")
    expires = conf.result_expires
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    if seconds and seconds < SOON:
        yield Finding("GD007", f"result_expires is {seconds:g} seconds.")
    if conf.task_always_eager:
        yield Finding("GD008", "task_always_eager is set.")


def _backend(app: Any) -> Iterator[Finding]:
    backend, url = app.backend, app.conf.result_backend
    if isinstance(backend, DisabledBackend):
        yield Finding("GD004", "result_backend is not set.")
    elif not isinstance(backend, DrainedBackendMixin):
        name = f"{type(backend).__module__}.{type(backend).__qualname__}"
        shown = masked(url)
        better = shown if "://" in shown else f"{shown}://"
        yield Finding(
            "GD005", f"result_backend = {shown!r} gives {name}: write 'green+{better}' instead."
        )


def check_packages(app: Any) -> Iterator[Finding]:
    """Look at what is installed, and whether it fits what the extras in use ask for."""
    extras = set()
    try:
        drainer = Settings.of(app.conf).drainer
    except ImproperlyConfigured:
        drainer = None
    if isinstance(drainer, str) and drainer in LIBRARIES:
        extras.add(drainer)
    used = (masked(app.conf.result_backend), masked(app.conf.broker_url))
    if any(url.startswith(("redis", "sentinel")) for url in used):
        extras.add("redis")
    if find_spec("packaging") is None:
        if "redis" in extras:
            yield Finding(
                "GD101", f"packaging is not installed, which kombu imports: {_pip('redis')}"
            )
        return
    for extra in sorted(extras):
        yield from _extra(NAME, extra, "GD102", _pip(extra))
    if "redis" in extras:
        yield from _extra("kombu", "redis", "GD104", _pip("redis"))


def _pip(extra: str) -> str:
    return f"pip install '{NAME}[{extra}]'"


def _extra(distribution: str, extra: str, misfit: str, remedy: str) -> Iterator[Finding]:
    """What an extra of *distribution* asks for, and is not there; *misfit*: in another version."""
    from packaging.requirements import Requirement

    for text in requires(distribution) or ():
        wanted = Requirement(text)
        always, here = (
            wanted.marker is None or wanted.marker.evaluate({"extra": name}) for name in ("", extra)
        )
        if always or not here:
            continue
        there = installed(wanted.name)
        if there is None and wanted.name == "hiredis":
            yield Finding("GD103", f"hiredis is not installed: {remedy}")
        elif there is None:
            yield Finding("GD101", f"{wanted.name} is not installed: {remedy}")
        # kombu also names one version of what it only imports.
        elif wanted.name != "packaging" and not wanted.specifier.contains(there, prereleases=True):
            yield Finding(
                misfit,
                f"{wanted.name} is {there}, and {distribution} needs {wanted.specifier}: {remedy}",
            )
