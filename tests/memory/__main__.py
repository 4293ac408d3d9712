"""Run it: see ``scripts/memory --help``."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from ..launch import MODES, patch


def main(options: argparse.Namespace) -> int:
    from ..rabbitmq import RabbitServer
    from ..servers import RedisServer
    from ..tasks import make_app
    from .results import grow, to_rabbitmq, to_redis

    server: Any = RedisServer() if options.backend == "redis" else RabbitServer()
    results = server.url() if options.backend == "redis" else "rpc://"
    drainer = "thread" if options.mode == "unpatched" else options.mode
    app = make_app(
        server.url(), results, result_drainer=drainer, result_drainer_buffer=options.buffer
    )
    publish = to_redis(app) if options.backend == "redis" else to_rabbitmq(app, server)
    print(f"{options.backend}, {options.mode}\n{'results':>12}  {'blocks':>10}  {'RSS':>8}")
    steps = [options.results * step // 10 for step in range(1, 11)]
    measured = []
    for count, blocks, rss in grow(app, publish, steps):
        print(f"{count:12,}  {blocks:10,}  {rss:4} MiB", flush=True)
        measured.append(blocks)
    app.backend.result_consumer.stop()
    server.end()
    # The peaks, as eventlet's hub lets go of its cancelled timers from time to time only.
    half = len(measured) // 2
    return int(max(measured[half:]) > max(measured[:half]) * 1.01)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/memory",
        description="Let many results through one process and see what it keeps. Exits 1 where it "
        "has grown by more than 1 per cent after the first tenth.",
    )
    parser.add_argument("--backend", choices=("redis", "rpc"), default="redis")
    parser.add_argument("--results", type=int, default=1_000_000)
    parser.add_argument("--buffer", type=int, default=10_000, help="result_drainer_buffer")
    parser.add_argument("--mode", choices=MODES, default="gevent")
    return parser.parse_args()


if __name__ == "__main__":
    options = arguments()
    patch(options.mode)
    os.environ["TESTS_MODE"] = options.mode
    sys.exit(main(options))
