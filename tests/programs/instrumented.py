"""``instrumented MODE DRAINER``: print whose context the loop is in, where threads inherit one."""

import contextvars
import sys
import threading
from tests.launch import patch

patch(sys.argv[1])
request_id = contextvars.ContextVar("request_id", default="none")
start = threading.Thread.start


def start_in_context(thread):
    # As Sentry and OpenTelemetry do.
    run = thread.run
    thread.run = lambda context=contextvars.copy_context(): context.run(run)
    start(thread)


threading.Thread.start = start_in_context
from celery_green_drain import drainers
from tests.green import wait_until

seen = set()


class Consumer:
    def drain_events(self, timeout=None):
        seen.add(request_id.get())
        drainer.sleep(0.01)


consumer = Consumer()
drainer = drainers.ours(sys.argv[-1])(consumer)
request_id.set("42")
drainer.start()
wait_until(lambda: seen, "a turn")
drainer.stop()
print(*seen)
