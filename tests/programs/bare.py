"""The package is imported where none of its extras is installed."""

import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("gevent", "eventlet", "redis"):
            raise ImportError(name)


sys.meta_path.insert(0, Refuse())
import celery_green_drain
from celery_green_drain import Drainer, ThreadDrainer, DrainerStopped
import celery_green_drain.backends
import celery_green_drain.drainers
import celery_green_drain.settings
