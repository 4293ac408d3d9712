"""Run it: see ``scripts/model --help``."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time

from ..launch import MODES, patch

BACKENDS = ("redis", "rpc")


def main(options: argparse.Namespace) -> int:
    from .mutants import MUTANTS, hunt
    from .oracle import LATE, Oracle
    from .runner import Model
    from .sides import SIDES
    from .weather import Climate

    seed = options.seed if options.seed is not None else random.randrange(10**6)
    if options.mutants is not None:
        return not hunt(options.mode, seed, options.mutants)
    if options.mutant:
        MUTANTS[options.mutant].apply()
    command = f"scripts/model --mode {options.mode} --backend {options.backend} --seed {seed}"
    if options.no_forks:
        command += " --no-forks"
    if options.histories:
        command += f" --histories {options.histories}"
    if options.weather is not None:
        command += f" --weather {' '.join(options.weather)}"
    if options.late:
        command += f" --late {options.late:g}"
    print(command, flush=True)
    forks = not options.no_forks and options.mode != "eventlet"
    side = SIDES[options.backend]()
    try:
        oracle = Oracle(command, side.stored, options.faults, options.late or LATE)
        climate = Climate(forks, side.stores, options.weather)
        model = Model(side, oracle, seed, climate, options.histories)
        begun = time.monotonic()
        rounds = model.run(begun + options.minutes * 60, options.first, options.rounds)
        seconds = time.monotonic() - begun
        print(
            f"{options.backend}, {options.mode}: {model.histories:,} histories in {rounds} rounds "
            f"and {seconds:.0f} s; {len(oracle.faults)} faults"
        )
        counts = ", ".join(f"{count:,} {how}" for how, count in sorted(oracle.counts.items()))
        print(f"ends of waits: {counts}")
        print("memory:", model.memory)
        return bool(oracle.faults)
    finally:
        side.end()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/model",
        description="Do all that the API offers at once, at random moments, against a real server "
        "and with faults at random, and judge each end of each wait. Exits 1 where one is wrong.",
    )
    parser.add_argument("--backend", choices=BACKENDS, default="redis")
    parser.add_argument("--mode", choices=MODES, default="gevent")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, help="of all choices; default: at random")
    parser.add_argument("--first", type=int, default=0, help="the round to begin with")
    parser.add_argument("--rounds", type=int, help="no more rounds than these")
    parser.add_argument("--histories", type=int, default=0, help="in a round")
    parser.add_argument("--weather", nargs="*", metavar="NAME", help="disturb by these, always")
    parser.add_argument("--mutants", nargs="*", metavar="NAME", help="see that it finds bugs")
    parser.add_argument("--mutant", help=argparse.SUPPRESS)
    parser.add_argument("--no-forks", action="store_true", help="the process does not fork")
    parser.add_argument(
        "--late",
        type=float,
        help="seconds after which a result is late; more than 15 where the machine is busy",
    )
    parser.add_argument("--faults", type=int, default=1, help="how many are enough")
    return parser.parse_args()


if __name__ == "__main__":
    options = arguments()
    patch(options.mode)
    os.environ["TESTS_MODE"] = options.mode
    sys.exit(main(options))
