"""``forking_rpc MODE BROKER``: use rpc results, fork, and use them on both sides.

Exits 0 where parent and child each got their own results, over queues of their own.
"""

from __future__ import annotations

import sys
from typing import Any

from ..children import Children
from ..launch import patch


def main(mode: str, broker: str) -> None:
    patch(mode)
    from ..green import drain_loops, wait_until
    from ..tasks import make_app

    drainer = "thread" if mode == "unpatched" else mode
    app = make_app(broker, "rpc://", result_drainer=drainer)
    consumer = app.backend.result_consumer

    def send(name: str, *args: Any) -> Any:
        # Over a connection of the pool, which the parent has used already.
        return app.tasks[name].delay(*args)

    def use(value: str) -> None:
        for _ in range(3):
            assert send("nap", 0.1, value).get(timeout=20) == value

    use("before")
    called: list[object] = []
    inherited = send("nap", 2, "the parent's")
    inherited.then(called.append)
    wait_until(lambda: consumer.statistics().pending, "the callback to be served")
    name = app.backend.oid

    def work(number: int) -> None:
        assert consumer.statistics().drainer is None
        assert app.backend.oid != name
        use(f"child {number}")
        assert consumer.statistics().connects == 1
        assert not called, "the callback is the parent's"
        assert drain_loops() == 1, drain_loops()
        consumer.stop()

    children = Children(work)
    use("parent")
    children.check()
    wait_until(lambda: called == [inherited], "the callback")
    assert inherited.get() == "the parent's"
    assert app.backend.oid == name
    assert consumer.statistics().connects == 1, "a child has touched the parent's connection"
    print("fine")


if __name__ == "__main__":
    main(*sys.argv[1:])
