"""``end_in_an_outage MODE BROKER RESULTS DRAINER READ COUNT``: end when told, while many wait."""

import sys
import time
from tests.launch import patch

mode, broker, results, drainer, read, count = sys.argv[1:]
patch(mode)
from celery import uuid
from tests.green import spawn, wait_until
from tests.tasks import make_app

made = [
    make_app(broker, results, result_drainer=drainer, drained_from=read) for _ in range(int(count))
]
import logging

logging.getLogger("celery_green_drain").setLevel(logging.CRITICAL)
for app in made:
    app.AsyncResult(uuid()).then(print, print)
    spawn(app.AsyncResult(uuid()).get)
wait_until(lambda: all(a.backend.result_consumer.statistics().pending for a in made), "the waits")
print("ends", flush=True)
sys.stdin.readline()
