"""``launch.py MODE [ARGUMENT...]``: run pytest in a process that MODE has patched first.

``applications`` and ``pages`` are no modes, but what runs beside them, and patches nothing.
"""

from __future__ import annotations

import os
import sys

MODES = ("unpatched", "gevent", "eventlet")
APPLICATIONS, PAGES = BESIDE = ("applications", "pages")


def patch(mode: str) -> None:
    """Patch this process as a web server of that kind does."""
    if mode == "gevent":
        from gevent import monkey

        monkey.patch_all()
    elif mode == "eventlet":
        import warnings

        warnings.filterwarnings("ignore", message="(?s).*Eventlet is deprecated")
        import eventlet

        eventlet.monkey_patch()
    elif mode not in ("unpatched", *BESIDE):
        sys.exit(f"launch: {mode!r} is none of {', '.join((*MODES, *BESIDE))}")


if __name__ == "__main__":
    mode, *arguments = sys.argv[1:]
    patch(mode)
    os.environ["TESTS_MODE"] = mode

    import pytest

    sys.exit(pytest.main(arguments))
