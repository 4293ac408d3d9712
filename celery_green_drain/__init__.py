"""Celery results in green-threaded processes: one greenlet drains one connection.

Set ``result_drainer`` to ``"gevent"``, ``"eventlet"`` or ``"auto"`` in the Celery configuration;
there is nothing to import and nothing to call. The names here are for applications that
watch states, catch errors or look at figures, and for those who write a drainer or a
result consumer of their own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    DrainerStopped,
    DrainerWarning,
    GreenDrainError,
    ResultError,
    ResultEvicted,
    ResultNeverCame,
    TaskContextError,
)

if TYPE_CHECKING:
    from .backends.base import DrainedBackendMixin
    from .consumers.base import ResultConsumer
    from .context import copy_current_task_context
    from .drainers.base import Drainer
    from .drainers.eventlet import EventletDrainer as EventletDrainer
    from .drainers.gevent import GeventDrainer as GeventDrainer
    from .drainers.signal import Signal
    from .drainers.thread import ThreadDrainer as ThreadDrainer
    from .exits import finish
    from .figures import Statistics
    from .inspection.report import Report, report, statistics
    from .inspection.serving import install_signal_report, wsgi_report
    from .watching import State, watch

__version__ = "0.1.0"

__all__ = (
    "DrainedBackendMixin",
    "Drainer",
    "DrainerStopped",
    "DrainerWarning",
    "GreenDrainError",
    "Report",
    "ResultConsumer",
    "ResultError",
    "ResultEvicted",
    "ResultNeverCame",
    "Signal",
    "State",
    "Statistics",
    "TaskContextError",
    "copy_current_task_context",
    "finish",
    "install_signal_report",
    "report",
    "statistics",
    "watch",
    "wsgi_report",
)

#: Imported at first use: Celery imports the package for every process, set or not.
_LAZY = {
    "DrainedBackendMixin": ".backends.base",
    "Drainer": ".drainers.base",
    "Report": ".inspection.report",
    "ResultConsumer": ".consumers.base",
    "Signal": ".drainers.signal",
    "State": ".watching",
    "Statistics": ".figures",
    "copy_current_task_context": ".context",
    "finish": ".exits",
    "install_signal_report": ".inspection.serving",
    "report": ".inspection.report",
    "statistics": ".inspection.report",
    "watch": ".watching",
    "wsgi_report": ".inspection.serving",
}

#: Imported only by name, and listed nowhere: each registers itself with Celery, in place of
#: Celery's own, and needs its green library. ``import *`` and ``help()`` take all that is listed.
_UNLISTED = {
    "EventletDrainer": ".drainers.eventlet",
    "GeventDrainer": ".drainers.gevent",
    "ThreadDrainer": ".drainers.thread",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name) or _UNLISTED.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(module, __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
