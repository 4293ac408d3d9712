"""``load.py KIND URL COUNT SEED``: what comes for others, while somebody's round trips are timed.

It gets ready, says so, and begins when it is told to.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import redis

from .publisher import wait_for_start
from .results import PREFIX, Keys, payload, task_ids

#: Results, or states, in a second, and seconds between two portions of them.
RATE, PAUSE = 10_000, 0.01

#: Bytes of a large result, for each task.
LARGE = 1_000


def results(url: str, ids: list[str]) -> None:
    """The results of many tasks, one after the other."""
    keys = Keys(url)
    for portion in _paced(ids):
        keys.store(dict.fromkeys(portion, 1))


def states(url: str, ids: list[str]) -> None:
    """The first task reports so many states, and ends."""
    client, channel = redis.Redis.from_url(url), PREFIX + ids[0]
    state = {**json.loads(payload(ids[0], 1)), "status": "PROGRESS"}
    for portion in _paced(ids):
        with client.pipeline(transaction=False) as pipe:
            for number, _ in enumerate(portion):
                pipe.publish(channel, json.dumps({**state, "result": number}))
            pipe.execute()
    Keys(url).store({ids[0]: 1})


def large(url: str, ids: list[str]) -> None:
    """One result that is very long."""
    Keys(url).store({ids[0]: "x" * LARGE * len(ids)})


def _paced(ids: list[str]) -> Iterator[list[str]]:
    size, begun = int(RATE * PAUSE), time.monotonic()
    for number, start in enumerate(range(0, len(ids), size)):
        time.sleep(max(begun + number * PAUSE - time.monotonic(), 0))
        yield ids[start : start + size]


if __name__ == "__main__":
    kind, url, count, seed = sys.argv[1:]
    ids = task_ids(int(count), int(seed))
    redis.Redis.from_url(url).ping()
    wait_for_start()
    {"results": results, "states": states, "large": large}[kind](url, ids)
