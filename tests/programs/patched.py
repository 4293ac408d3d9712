"""``patched PATCH SETTING``: print which drainer is chosen, after running PATCH."""

import sys
import warnings

exec(sys.argv[1])
from celery import Celery
import celery_green_drain

app = Celery(backend="file:///tmp")
app.conf.result_drainer = sys.argv[2]
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always", celery_green_drain.DrainerWarning)
    drainer = app.backend.result_consumer.drainer
for one in seen:
    if one.category is celery_green_drain.DrainerWarning:
        print(one.message)
print(type(drainer).__name__, sorted({"gevent", "eventlet"} & set(sys.modules)))
