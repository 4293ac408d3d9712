"""What Django needs where it is in use."""

from __future__ import annotations

import sys

__all__ = ("close_old_connections",)


def close_old_connections() -> None:
    """Close outdated database connections, as Django itself does after a request only."""
    django_db = sys.modules.get("django.db")
    if django_db is not None:
        django_db.close_old_connections()
