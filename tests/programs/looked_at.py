"""To look at the names of the package imports no green library."""

import inspect
import pydoc
import sys
from celery.backends import asynchronous

before = dict(asynchronous.drainers)
from celery_green_drain import *
import celery_green_drain

assert watch and Drainer
members = dict(inspect.getmembers(celery_green_drain))
assert members["watch"] is watch
assert "watch" in pydoc.render_doc(celery_green_drain)
assert asynchronous.drainers == before, asynchronous.drainers
assert not {"gevent", "eventlet", "redis"} & set(sys.modules)
