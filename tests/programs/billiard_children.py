"""``billiard_children MODE BROKER RESULTS DRAINER``: results on both sides of billiard's fork."""

import os
import sys
from tests.launch import patch

mode, broker, results, drainer = sys.argv[1:]
patch(mode)
import billiard
from tests.tasks import make_app
from tests.green import drain_loops

app = make_app(broker, results, result_drainer=drainer)


def use(value):
    with app.connection_for_write() as connection:
        result = app.tasks["nap"].apply_async((0.1, value), connection=connection)
        assert result.get(timeout=30) == value


def child(number):
    use(number)
    assert app.backend.result_consumer.statistics().connects == 1
    assert drain_loops() == 1
    app.backend.result_consumer.stop()


use("before")
context = billiard.get_context("fork")
children = [context.Process(target=child, args=(number,)) for number in range(3)]
for process in children:
    process.start()
use("parent")
for process in children:
    process.join(60)
assert [process.exitcode for process in children] == [0, 0, 0]
assert app.backend.result_consumer.statistics().connects == 1
print("fine")
