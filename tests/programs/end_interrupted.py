"""``end_interrupted MODE BROKER RESULTS SIGNAL DRAINER``: a signal comes while the end waits."""

import os
import signal
import sys
import time
from tests.launch import patch

mode, broker, results, name, drainer = sys.argv[1:]
patch(mode)
from celery import uuid
from celery_green_drain import exits
from tests.green import spawn, wait_until
from tests.tasks import make_app

app = make_app(broker, results, result_drainer=drainer, result_drainer_exit_timeout=60.0)
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, lambda *_: sys.exit(0))  # as gunicorn's workers have it


def interrupt():
    while not exits._under_way:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.Signals[name])


never = app.AsyncResult(uuid())
never.then(print, lambda error: print(type(error).__name__, flush=True))
wait_until(lambda: app.backend.result_consumer.statistics().pending == 1, "the callback")
spawn(interrupt)
