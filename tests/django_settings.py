"""A Django project as django-celery-results needs it, in the folder ``TESTS_DJANGO``."""

from __future__ import annotations

import os

import django

FOLDER = os.environ["TESTS_DJANGO"]

SECRET_KEY = "of the tests"
USE_TZ = True
# Else two transactions of a worker may lock each other out. Older versions do not know of it.
IMMEDIATE = {"transaction_mode": "IMMEDIATE"} if django.VERSION >= (5, 1) else {}
INSTALLED_APPS = ["django_celery_results"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": f"{FOLDER}/db.sqlite3",
        "OPTIONS": {"timeout": 20, **IMMEDIATE},
    }
}
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": f"{FOLDER}/cache",
        # Else each value beyond the 300th throws away a third of all, whichever they are.
        "OPTIONS": {"MAX_ENTRIES": 1_000_000},
    }
}
