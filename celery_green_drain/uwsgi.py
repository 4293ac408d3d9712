"""What uWSGI calls where Python calls nobody: in a fork, and at the end of a gevent worker."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ("hook",)


def hook(name: str, function: Callable[[], object]) -> None:
    """Have uWSGI call *function*, and then what is there now, where its manual names *name*.

    Without effect in processes that are none of its own, and where it calls *function* already.
    """
    uwsgi: Any = sys.modules.get("uwsgi")  # there in its own processes alone
    other = getattr(uwsgi, name, None)
    if hasattr(uwsgi, "worker_id") and not isinstance(other, _Hook):
        # Perhaps not for the first time: others may have put their own in the place of ours.
        setattr(uwsgi, name, _Hook(function, other))


class _Hook:
    """*function*, and then what uWSGI called before, such as the functions of its ``@postfork``."""

    def __init__(self, function: Callable[[], object], other: Callable[[], object] | None) -> None:
        self._function, self._other = function, other

    def __call__(self) -> None:
        try:
            self._function()
        finally:
            if self._other is not None:
                self._other()
