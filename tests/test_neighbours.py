"""Other libraries in the process."""

from __future__ import annotations

from pathlib import Path

from .servers import RedisServer
from .test_processes import run_exit

DJANGO = """
import logging, sys
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
"""


def test_django_that_is_imported_and_not_configured(
    broker: RedisServer, results: RedisServer, tmp_path: Path
) -> None:
    urls = [results.url(), f"db+sqlite:///{tmp_path}/results.sqlite3"]
    script = run_exit(DJANGO, broker.url(), *urls)
    assert (script.returncode, script.stdout, script.stderr) == (0, "fine\n", "")
