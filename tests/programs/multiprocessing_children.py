"""``multiprocessing_children MODE BROKER RESULTS DRAINER``: children that end with callbacks."""

import multiprocessing
import sys
from tests.launch import patch

mode, broker, results, drainer = sys.argv[1:]
patch(mode)
from tests.tasks import make_app

app = make_app(broker, results, result_drainer=drainer)


def use(value):
    app.tasks["nap"].delay(0.3, value).then(lambda result: print(result.get(), flush=True))


def run(method):
    child = multiprocessing.get_context(method).Process(target=use, args=(method,))
    child.start()
    child.join(60)
    assert child.exitcode == 0


if __name__ == "__main__":
    assert app.tasks["nap"].delay(0, "parent").get(timeout=30) == "parent"
    for method in ("fork", "spawn", "forkserver"):
        run(method)
