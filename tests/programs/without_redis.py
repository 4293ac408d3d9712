"""A backend for Redis where redis-py is not installed."""

import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "redis":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Refuse())
from celery import Celery

app = Celery(backend="redis://:secret@localhost")
app.conf.result_drainer = "auto"
app.backend
