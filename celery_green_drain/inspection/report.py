"""``statistics(app)`` and ``report(app)``: what the package does for an app in this process.

Neither asks a server, waits for the drain loop, or takes a lock, so both answer during an outage,
in a signal handler, and where the loop hangs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from datetime import datetime, timezone
from typing import Any

from celery.exceptions import ImproperlyConfigured

from ..addresses import broker_address, result_address
from ..backends.base import DrainedBackendMixin
from ..clock import monotonic
from ..consumers.base import ResultConsumer
from ..drainers.patching import trouble
from ..figures import Statistics
from ..quoting import quoted
from ..settings import Settings
from .process import NAME, patched_by, versions

__all__ = ("Report", "consumer_of", "report", "statistics")

#: Tasks that a report names, unless told otherwise.
SHOWN = 50

#: To look for them reads files, which at the first report would stop a hub for a while.
VERSIONS = versions()


def statistics(app: Any) -> Statistics:
    """Return the figures of *app* in this process. Cheap; a snapshot; connects to nothing.

    Where the package is off, or does not serve the app's result backend, ``on`` is False.

    :raises ImproperlyConfigured: where a setting is refused, as ``app.backend`` does.
    """
    consumer = consumer_of(app)
    return Statistics(on=False) if consumer is None else consumer.statistics()


def consumer_of(app: Any) -> ResultConsumer | None:
    """What drains the results of *app*; None: nothing of this package does."""
    # Without the setting each greenlet that looks at app.backend would get another one.
    if not vars(app).get("_drained_backends") and Settings.of(app.conf).drainer is None:
        return None
    backend = app.backend
    return backend.result_consumer if isinstance(backend, DrainedBackendMixin) else None


class Report(dict[str, Any]):
    """A dictionary that is JSON; as text, a page of it."""

    def __str__(self) -> str:
        return "\n".join(_page(self))


def report(app: Any, limit: int = SHOWN) -> Report:
    """Return all that is known of *app* in this process. Bounded; connects to nothing.

    ``str()`` of it is a page of text. Its parts are ``process``, ``versions``, ``settings``,
    ``addresses`` (without passwords), ``backend``, ``statistics``, ``pending`` and ``problem``:
    why the settings are refused, or None.

    :param limit: how many of the tasks that are waited for it names, the oldest first.
    """
    parts: dict[str, Any] = {
        "process": {
            "pid": os.getpid(),
            "at": time.time(),
            "patched_by": patched_by(),
            "trouble": trouble(),
            "app": str(app.main or ""),
        },
        "versions": dict(VERSIONS),
        "addresses": {"results": result_address(app), "broker": broker_address(app)},
    }
    try:
        consumer, problem = consumer_of(app), None
        settings = Settings.of(app.conf) if consumer is None else consumer.settings
    except ImproperlyConfigured as exc:
        consumer, problem, settings = None, str(exc), None
    return Report(
        **parts,
        problem=problem,
        settings={} if settings is None else dict(_values(settings)),
        backend=None if consumer is None else _name(consumer.backend),
        statistics=asdict(Statistics(on=False) if consumer is None else consumer.statistics()),
        pending=[] if consumer is None else list(_pending(consumer, limit)),
    )


def _values(settings: Settings) -> Iterator[tuple[str, Any]]:
    return (
        (field.name, _plain(getattr(settings, field.name)))
        for field in fields(settings)
        if field.compare
    )


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else _name_of(value)


def _name(thing: object) -> str:
    return _name_of(type(thing))


def _name_of(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else repr(value)


def _pending(consumer: ResultConsumer, limit: int) -> Iterator[dict[str, Any]]:
    now, table = monotonic(), consumer.table
    for task_id in table.longest(limit):
        everybody = table.of(task_id)
        if not everybody:
            continue  # it has come just now
        yield {
            "task_id": task_id,
            "state": table.state(task_id),
            "age": max((now - one.since for one in everybody if one.since), default=0.0),
            "waits": sum(len(one.waits) for one in everybody),
            "kinds": sorted({kind for one in everybody for kind in one.kinds}),
        }


# -- as text


def _page(report: Mapping[str, Any]) -> Iterator[str]:
    process, figures = report["process"], report["statistics"]
    version = report["versions"].get(NAME, "(not installed)")
    yield f"celery_green_drain {version}, {_state(report)}"
    yield f"  at           {_moment(process['at'])}, process {process['pid']}"
    patched = (f"{name} ({', '.join(modules)})" for name, modules in process["patched_by"].items())
    yield f"  patched by   {', '.join(patched) or 'nothing'}"
    if process["trouble"]:
        yield f"  trouble      {process['trouble']}"
    yield f"  results      {report['addresses']['results']}"
    yield f"  broker       {report['addresses']['broker']}"
    if report["problem"]:
        yield f"  problem      {report['problem']}"
    if figures["on"]:
        yield f"  backend      {report['backend']}"
        yield from _figures(figures)
        yield from _tasks(report["pending"], figures["pending"])
    yield f"  settings     {_pairs(report['settings'].items())}"
    yield f"  versions     {_pairs(report['versions'].items())}"


def _state(report: Mapping[str, Any]) -> str:
    if report["problem"]:
        return "refused"
    if report["statistics"]["on"]:
        return "on"
    if not report["settings"]["drainer"]:
        return "off: result_drainer is not set"
    if NAME not in report["versions"]:
        return f"off: Celery does not find it, as the metadata of {NAME} is not there"
    return "off: it does not serve this result backend"


def _figures(figures: Mapping[str, Any]) -> Iterator[str]:
    life = "runs" if figures["running"] else "does not run: it begins with the first wait"
    yield f"  drainer      {figures['drainer'] or 'none so far'}, {life}"
    yield f"  connection   {_connection(figures)}"
    if figures["last_error"]:
        yield f"  last error   {_moment(figures['last_error_at'])}: {figures['last_error']}"
    counted = (
        name
        for name, value in figures.items()
        if isinstance(value, int) and not isinstance(value, bool)
    )
    yield f"  figures      {_pairs((name, figures[name]) for name in counted)}"
    if figures["lag_p50"] is not None:
        yield f"  lag          p50 {figures['lag_p50']:.3f} s, p99 {figures['lag_p99']:.3f} s"


def _connection(figures: Mapping[str, Any]) -> str:
    if figures["lost_at"] is not None:
        return f"lost since {_moment(figures['lost_at'])}"
    if figures["connected_since"] is not None:
        return f"{figures['connections']} since {_moment(figures['connected_since'])}"
    return "none"


def _tasks(tasks: list[Mapping[str, Any]], total: int) -> Iterator[str]:
    if tasks:
        yield "  waited for, the oldest first:"
    for task in tasks:
        seen = f"{', '.join(task['kinds'])} {task['state'] or ''}".rstrip()
        yield f"    {quoted(task['task_id'])}  {task['age']:8.1f} s  {seen}"
    if total > len(tasks):
        yield f"    and {total - len(tasks)} more"


def _pairs(items: Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{name}={value}" for name, value in items)


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
