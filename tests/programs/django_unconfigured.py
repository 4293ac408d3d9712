"""``django_unconfigured MODE BROKER RESULTS... DRAINER``: beside a Django without settings."""

import logging
import sys
from tests.launch import patch

mode, broker, *urls, drainer = sys.argv[1:]
patch(mode)
logging.basicConfig(level=logging.WARNING)
import django.db  # as some library does that looks whether it is in use
from celery import uuid
from tests.green import wait_until
from tests.tasks import make_app

for url in urls:
    app = make_app(broker, url, result_drainer=drainer)
    calls = []
    result = app.AsyncResult(uuid())
    result.then(lambda result: calls.append(result.get()))
    app.backend.store_result(result.id, 42, "SUCCESS")
    wait_until(lambda: calls == [42], "the callback")
    assert app.AsyncResult(result.id).state == "SUCCESS"
    assert app.AsyncResult(result.id).get(timeout=20) == 42
    app.backend.result_consumer.stop()
print("fine")
