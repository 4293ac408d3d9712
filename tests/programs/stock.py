"""Celery without the setting is as it was."""

import sys
from celery import Celery
from celery.backends import asynchronous

before = dict(asynchronous.drainers)
app = Celery(backend="redis://")
backend = app.backend
assert type(backend).__module__ == "celery.backends.redis"
assert asynchronous.drainers == before, asynchronous.drainers
assert "gevent" not in sys.modules and "eventlet" not in sys.modules
