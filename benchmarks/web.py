"""``web.py MEASUREMENT ADDRESSES``: a web process that waits for results when it is told to.

It says where they are to go, and then, for each line that tells it when to wait, what came of it.
"""

from __future__ import annotations

import json
import os
import select
import sys

from tests.launch import patch

from .plan import Measurement


def main() -> None:
    what, addresses = Measurement(**json.loads(sys.argv[1])), json.loads(sys.argv[2])
    patch(what.library)
    os.environ["TESTS_MODE"] = what.library
    from .waits import Waits

    waits = Waits(what, addresses)
    waits.queues = [None]
    waits.declare(0, "")
    waits.warm_up()
    print("ready", flush=True)
    print(json.dumps(waits.queues[0]), flush=True)
    while line := _line():
        waits.begin(**json.loads(line))
        waits.over.wait(what.patience)
        failed = waits.left + sum(waits.errors.values())
        print(json.dumps({"failed": failed, "errors": waits.errors}), flush=True)
        waits.errors.clear()


def _line() -> str:
    """The next line, for which the other greenlets are not held up."""
    select.select([sys.stdin], [], [])
    return sys.stdin.readline()


if __name__ == "__main__":
    main()
