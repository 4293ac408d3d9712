"""``end_of_callbacks MODE BROKER RESULTS WAIT DRAINER``: end with callbacks that are to come."""

import atexit
import sys
import time
from tests.launch import patch

mode, broker, results, wait, drainer = sys.argv[1:]
patch(mode)
from celery import uuid
from tests.green import wait_until
from tests.tasks import make_app

app = make_app(broker, results, result_drainer=drainer, result_drainer_exit_timeout=float(wait))


def on_error(error):
    time.sleep(0.1)
    print(type(error).__name__, flush=True)


coming, never = app.tasks["nap"].delay(1, "came"), app.AsyncResult(uuid())
for result in (coming, never):
    result.then(lambda result: print(result.get(), flush=True), on_error)
coming.then(lambda result: (time.sleep(0.3), print("slowly", flush=True)))
never.then(lambda result: print("must not be called", flush=True))
wait_until(lambda: app.backend.result_consumer.statistics().pending == 2, "the callbacks")
atexit.register(lambda: print("before", app.tasks["add"].delay(1, 2).get(timeout=20), flush=True))
