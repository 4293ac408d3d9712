"""Celery results in green-threaded processes: one greenlet drains one connection.

Set ``result_drainer = "gevent"`` (or ``"eventlet"``) in the Celery configuration;
there is nothing to import and nothing to call. The names here are for those who
write a drainer of their own or look after one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    DrainerStopped,
    DrainerWarning,
    GreenDrainError,
    ResultEvicted,
    ResultNeverCame,
    TaskContextError,
)

if TYPE_CHECKING:
    from .context import copy_current_task_context
    from .drainers.base import Drainer
    from .drainers.eventlet import EventletDrainer
    from .drainers.gevent import GeventDrainer
    from .drainers.thread import ThreadDrainer
    from .watching import State, watch

__version__ = "0.1.0"

__all__ = (
    "Drainer",
    "DrainerStopped",
    "DrainerWarning",
    "EventletDrainer",
    "GeventDrainer",
    "GreenDrainError",
    "ResultEvicted",
    "ResultNeverCame",
    "State",
    "TaskContextError",
    "ThreadDrainer",
    "copy_current_task_context",
    "watch",
)

#: Imported at first use: importing the package must need no green library, and
#: importing a drainer registers it with Celery.
_LAZY = {
    "Drainer": ".drainers.base",
    "EventletDrainer": ".drainers.eventlet",
    "GeventDrainer": ".drainers.gevent",
    "State": ".watching",
    "ThreadDrainer": ".drainers.thread",
    "copy_current_task_context": ".context",
    "watch": ".watching",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
