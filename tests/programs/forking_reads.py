"""``forking_reads MODE RESULTS TASK``: fork while greenlets read a state; both sides go on.

The store answers nobody until it has printed ``forked``.
"""

from __future__ import annotations

import sys

from ..launch import patch


def main(mode: str, results: str, task_id: str) -> None:
    patch(mode)

    from ..children import Children
    from ..green import crowd, spawn, wait_until
    from ..tasks import make_app

    app = make_app("memory://", results, result_drainer=mode)
    reads = app.backend.result_consumer.reads
    # As if there were a first one. It reads by itself, and what its copy does is not ours.
    reads._first = True
    read: list[object] = []

    def read_all() -> list[object]:
        return crowd(10, lambda _: app.AsyncResult(task_id).result)

    spawn(lambda: read.extend(read_all()))
    wait_until(lambda: reads._asked, "the query")

    def work(_: int) -> None:
        assert app.backend.result_consumer.reads is not reads
        assert read_all() == [42] * 10

    children = Children(work)
    print("forked", flush=True)
    wait_until(lambda: read, "all reads")
    assert read == [42] * 10, read
    assert read_all() == [42] * 10
    children.check()
    print("fine")


if __name__ == "__main__":
    main(*sys.argv[1:])
