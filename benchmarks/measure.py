"""``measure.py MEASUREMENT ADDRESSES``: make one measurement, in this process; print it as JSON."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module

from tests.launch import patch

from .plan import Measurement

#: Where the functions of the cases are.
CASES = {
    "get": "waits",
    "then": "waits",
    "idle": "waits",
    "growth": "waits",
    "trip": "trips",
    "worker": "trips",
    "requests": "trips",
    "messages": "limits",
    "wake": "limits",
    "loop": "limits",
    "register": "limits",
    "fanin": "fanin",
    "crowd": "crowd",
    "far": "far",
    "thens": "many",
    "gets": "many",
    "groups": "many",
    "quiet": "fairness",
    "results": "fairness",
    "states": "fairness",
    "large": "fairness",
    "burst": "fairness",
}


def main() -> None:
    what, addresses = Measurement(**json.loads(sys.argv[1])), json.loads(sys.argv[2])
    if what.contender == "limit without hiredis":
        sys.modules["hiredis"] = None  # type: ignore[assignment]
    patch(what.library)
    os.environ["TESTS_MODE"] = what.library
    cases = import_module(f".{CASES[what.case]}", __package__)
    print(json.dumps(getattr(cases, what.case)(what, addresses)), flush=True)
    os._exit(0)  # not to be held up by thousands of waits that have failed


if __name__ == "__main__":
    main()
