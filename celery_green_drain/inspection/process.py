"""The process: versions, and what has patched it. Imports nothing that is not imported."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from ..drainers.patching import is_patched, patchers

__all__ = ("NAME", "installed", "patched_by", "versions")

#: This package, as pip knows it.
NAME = "celery-green-drain"

#: Distributions whose version matters.
DISTRIBUTIONS = (
    *(NAME, "celery", "kombu", "amqp", "vine", "billiard"),
    *("redis", "hiredis", "packaging", "gevent", "eventlet", "greenlet"),
    *("gunicorn", "django", "django-celery-results", "sqlalchemy"),
)

#: Modules of Python that matter here, by the names that each green library has for them.
PATCHED = {
    "gevent": ("socket", "ssl", "select", "threading", "queue", "time"),
    "eventlet": ("socket", "select", "thread", "time"),
}


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
    return {
        library: [module for module in PATCHED[library] if is_patched(library, module)]
        for library in patchers()
    }
