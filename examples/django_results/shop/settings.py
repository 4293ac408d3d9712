"""Django's settings, and Celery's."""

import os
from pathlib import Path

REDIS = os.environ.get("REDIS_URL", "redis://localhost:6379")

CELERY_BROKER_URL = f"{REDIS}/0"
CELERY_RESULT_BACKEND = f"{REDIS}/1"
CELERY_RESULT_DRAINER = "auto"  # gevent or eventlet, whichever has patched the process
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True

FOLDER = Path(__file__).resolve().parents[1]

SECRET_KEY = "an example has no secrets"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
INSTALLED_APPS = ["django_celery_results"]
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DATABASE", FOLDER / "db.sqlite3"),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
