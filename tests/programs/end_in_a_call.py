"""``end_in_a_call MODE DRAINER``: end while a native thread is in the driver of a store."""

import sys
from tests.launch import patch

patch(sys.argv[1])
import eventlet
from eventlet import patcher
from celery_green_drain.drainers.eventlet import EventletDrainer

call = EventletDrainer.lanes(1, native=True)
began = []


def slow():
    began.append(True)
    patcher.original("time").sleep(0.5)
    print("over", flush=True)


eventlet.spawn(call, slow)
while not began:
    eventlet.sleep(0.01)
