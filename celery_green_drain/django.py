"""What Django needs where it is in use."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

__all__ = ("close_connections", "close_old_connections", "set_up")

logger = logging.getLogger(__name__)


def set_up() -> None:
    """Load the models and the rest of a Django project, where there is one, as its servers do.

    Celery does that in its workers only.

    :raises Exception: what the project raises.
    """
    if os.environ.get("DJANGO_SETTINGS_MODULE"):
        try:
            import django
        except ImportError:
            return  # and Celery goes on without as well
        django.setup()


def close_old_connections() -> None:
    """Close outdated database connections, as Django itself does after a request only.

    Raises nothing: this is a clean-up for somebody else.
    """
    db = sys.modules.get("django.db")
    if db is not None:
        _clean_up(lambda: db.close_old_connections())


def close_connections() -> None:
    """Close all database connections of this native thread, which ends. Raises nothing.

    Otherwise they stay open until the garbage collector finds them.
    """
    db = sys.modules.get("django.db")
    if db is not None:
        _clean_up(lambda: db.connections.close_all())


def _clean_up(close: Callable[[], object]) -> None:
    try:
        # Django may be there only because some library has imported it, and then it has no
        # settings, and so no connections.
        if sys.modules["django.conf"].settings.configured:
            close()
    except Exception as exc:
        logger.warning("Closing connections of Django failed: %s: %s", type(exc).__name__, exc)
