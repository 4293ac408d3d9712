"""How green libraries have patched this process, found without importing one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec

__all__ = ("LIBRARIES", "is_patched", "obstacle", "patchers", "threads_are_green", "trouble")


@dataclass(frozen=True)
class Patcher:
    """What a green library knows of its patches."""

    #: The module that has patched, where it has been imported.
    module: str
    #: Its function that tells.
    tells: str
    #: The call that patches.
    call: str
    #: Those who make that call by themselves.
    callers: str
    #: Its names of what Celery and its clients wait on, by what users call that.
    waited_on: tuple[tuple[str, str], ...]


LIBRARIES = {
    "gevent": Patcher(
        "gevent.monkey",
        "is_module_patched",
        "gevent.monkey.patch_all()",
        " (gunicorn -k gevent does)",
        (("threading", "threading"), ("queue", "queue")),
    ),
    "eventlet": Patcher(
        "eventlet.patcher",
        "is_monkey_patched",
        "eventlet.monkey_patch()",
        "",
        (("threading and queue", "thread"),),
    ),
}


def is_patched(library: str, module: str = "socket") -> bool:
    """Whether *library* has patched *module*. One that is not imported has patched nothing."""
    patcher = LIBRARIES[library]
    imported = sys.modules.get(patcher.module)
    return imported is not None and bool(getattr(imported, patcher.tells)(module))


def patchers() -> list[str]:
    """The libraries that have patched the sockets of this process."""
    return [library for library in LIBRARIES if is_patched(library)]


def threads_are_green() -> bool:
    """Whether ``threading`` starts greenlets, in the native thread of who starts them."""
    return is_patched("gevent", "threading") or is_patched("eventlet", "thread")


def obstacle(library: str) -> str | None:
    """Why *library* cannot serve in this process, with the remedy; None: it can."""
    if is_patched(library):
        return None
    others = patchers()
    if others:
        return f"this process is patched by {others[0]}: set {others[0]!r}, or 'auto'"
    if find_spec(library) is None:
        return f"{library} is not installed: pip install 'celery-green-drain[{library}]'"
    patcher = LIBRARIES[library]
    return (
        f"this process is not patched by {library}: call {patcher.call} before anything else is "
        f"imported{patcher.callers}, or set 'auto', which takes what fits"
    )


def trouble() -> str | None:
    """Say why who waits may block the whole process, as it is patched by half; None: it is not."""
    found = patchers()
    if len(found) > 1:
        return (
            f"This process is patched by {' and '.join(found)}, and each blocks the greenlets of "
            f"the other: patch with one of them only."
        )
    for library in found:
        patcher = LIBRARIES[library]
        missing = [what for what, name in patcher.waited_on if not is_patched(library, name)]
        if missing:
            return (
                f"{library} has patched the sockets of this process, but not "
                f"{' and '.join(missing)}: whoever waits there, such as the eleventh of eleven "
                f"delay() at once for a connection to the broker, blocks all greenlets for ever. "
                f"Call {patcher.call} without leaving anything out."
            )
    return None
