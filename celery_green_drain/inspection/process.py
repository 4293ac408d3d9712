"""The process: versions, and what has patched it. Imports nothing that is not imported."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ("installed", "patched_by", "versions")

#: Distributions whose version matters.
DISTRIBUTIONS = (
    *("celery-green-drain", "celery", "kombu", "amqp", "vine", "billiard"),
    *("redis", "hiredis", "packaging", "gevent", "eventlet", "greenlet"),
    *("gunicorn", "django", "django-celery-results", "sqlalchemy"),
)

#: What a green library patches, and what hangs where it does not.
PATCHED = ("socket", "threading", "queue", "time", "ssl", "select")


def installed(distribution: str) -> str | None:
    """The version of *distribution* that is installed; None: it is not."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """The versions of Python and of what is installed and matters, by name."""
    found = {name: installed(name) for name in DISTRIBUTIONS}
    return {
        "python": platform.python_version(),
        **{name: number for name, number in found.items() if number is not None},
    }


def patched_by() -> dict[str, list[str]]:
    """Which green libraries have patched this process, and which modules of Python."""
    patched = {"gevent": _by_gevent, "eventlet": _by_eventlet}
    found = {name: [module for module in PATCHED if by(module)] for name, by in patched.items()}
    return {name: modules for name, modules in found.items() if modules}


def _by_gevent(module: str) -> bool:
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched(module))


def _by_eventlet(module: str) -> bool:
    patcher: Any = sys.modules.get("eventlet.patcher")
    # Where it was only imported, its names are those of its groups.
    names = {"threading": "thread", "queue": "thread", "ssl": "socket"}
    return patcher is not None and bool(patcher.is_monkey_patched(names.get(module, module)))
