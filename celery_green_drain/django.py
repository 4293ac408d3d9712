"""What Django needs where it is in use."""

from __future__ import annotations

import logging
import sys

__all__ = ("close_old_connections",)

logger = logging.getLogger(__name__)


def close_old_connections() -> None:
    """Close outdated database connections, as Django itself does after a request only.

    Raises nothing: this is a clean-up for somebody else. Django may be there only because some
    library has imported it, and then it has no settings, and so no connections.
    """
    django_db = sys.modules.get("django.db")
    if django_db is None:
        return
    try:
        if sys.modules["django.conf"].settings.configured:
            django_db.close_old_connections()
    except Exception as exc:
        logger.warning("Closing old connections of Django failed: %s: %s", type(exc).__name__, exc)
