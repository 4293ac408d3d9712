"""Goes into each process of the command that the doctor starts, and tells how that is patched.

Python imports it before anything else. So it imports nothing that a green library is to patch, and
looks from a native thread, which no patch reaches.
"""

from __future__ import annotations

import _thread
import importlib
import os
import sys
import time
from typing import Any

# Those of Python, whatever is patched later.
_start, _sleep, _clock = _thread.start_new_thread, time.sleep, time.monotonic

#: Seconds between two looks, and from the app's appearance to the first one that tells: by then its
#: settings are there.
LOOK, SETTLE = 0.2, 1.0


def _begin() -> None:
    _start(_watch, ())


def _watch() -> None:
    module, _, name = os.environ["GREEN_DRAIN_APP"].partition(":")
    while getattr(sys.modules.get(module), name, None) is None:
        _sleep(LOOK)
    _sleep(SETTLE)
    while True:
        _tell(getattr(sys.modules[module], name))
        _sleep(LOOK)


def _tell(app: Any) -> None:
    import json

    from celery_green_drain.inspection.report import report

    path = os.path.join(os.environ["GREEN_DRAIN_TOLD"], str(os.getpid()))
    try:
        told: Any = {"parent": os.getppid(), "report": report(app, limit=0)}
    except Exception as exc:
        told = {"parent": os.getppid(), "error": f"{type(exc).__name__}: {exc}"}
    with open(f"{path}.part", "w") as file:
        json.dump(told, file)
    os.replace(f"{path}.part", f"{path}.json")


def _import_the_next_one() -> None:
    """Import the module of this name that this one stands before, if there is one."""
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [each for each in sys.path if os.path.abspath(each) != folder]
    own = sys.modules.pop("sitecustomize", None)
    try:
        importlib.import_module("sitecustomize")
    except ImportError:
        if own is not None:
            sys.modules["sitecustomize"] = own


if "GREEN_DRAIN_TOLD" in os.environ:
    _import_the_next_one()
    os.register_at_fork(after_in_child=_begin)
    _begin()
