"""``end_rpc MODE BROKER DRAINER``: end, after printing the name of the reply queue."""

import sys
from tests.launch import patch

patch(sys.argv[1])
from celery import uuid
from tests.green import spawn
from tests.tasks import make_app

app = make_app(sys.argv[2], "rpc://", result_drainer=sys.argv[3])
assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
waiting = [app.AsyncResult(uuid()) for _ in range(10)]
for result in waiting:
    result.then(print)
    spawn(result.get)
print(app.backend.oid)
