"""``end MODE BROKER RESULTS WAIT DRAINER``: end with waits and callbacks that are pending."""

import sys
from tests.launch import patch

patch(sys.argv[1])
from celery import uuid
from tests.green import spawn
from tests.tasks import make_app

wait = float(sys.argv[4])
app = make_app(*sys.argv[2:4], result_drainer=sys.argv[5], result_drainer_exit_timeout=wait)
task_id = uuid()
app.backend.store_result(task_id, 1, "SUCCESS")
assert app.AsyncResult(task_id).get(timeout=20) == 1
waiting = [app.AsyncResult(uuid()) for _ in range(10)]
for result in waiting:
    result.then(print)
    spawn(result.get)
