"""The Celery app: what the worker and the web server share."""

import os
import time

from celery import Celery

REDIS = os.environ.get("REDIS_URL", "redis://localhost:6379")

app = Celery("tasks", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
app.conf.update(
    result_drainer="auto",  # gevent or eventlet, whichever has patched the process
    broker_connection_retry_on_startup=True,
)


@app.task
def add(x, y):
    return x + y


@app.task(bind=True)
def render(self, pages):
    for page in range(pages):
        self.update_state(state="PROGRESS", meta={"page": page, "pages": pages})
        time.sleep(0.2)
    return f"{pages} pages are done."
