"""Bugs that are put in on purpose, each of which the model must find.

``scripts/model --mutants`` runs it with each of them, and prints what it found.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..servers import UNMEASURED

__all__ = ("MUTANTS", "hunt")

#: Minutes after which a bug has not been found.
MINUTES = 1.5

#: One in so many times a bug shows that does not always show.
RARELY = 50

MUTANTS: dict[str, Mutant] = {}


@dataclass(frozen=True)
class Mutant:
    """A bug."""

    #: Puts it in.
    apply: Callable[[], None]
    #: Where it shows: arguments of the model.
    arguments: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return self.apply.__doc__ or ""


def mutant(*arguments: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def enter(apply: Callable[[], None]) -> Callable[[], None]:
        MUTANTS[apply.__name__.replace("_", "-")] = Mutant(apply, arguments)
        return apply

    return enter


def _replace(cls: type, name: str, function: Callable[..., Any]) -> None:
    if name not in vars(cls):
        sys.exit(f"{cls.__name__} has no {name} of its own any more: mend this bug.")
    setattr(cls, name, function)


def _rarely() -> bool:
    return not random.randrange(RARELY)


@mutant()
def leaves_entries() -> None:
    """Who waits no more is not taken out of the table."""
    from celery_green_drain.pending import Wait

    def close(self: Any) -> None:
        for pending in self._waited_for():
            pending.leave(self)

    _replace(Wait, "close", close)


@mutant()
def stays_subscribed() -> None:
    """Redis is not told that nobody waits for a result any more."""
    from celery_green_drain.consumers.redis.consumer import RedisResultConsumer

    _replace(RedisResultConsumer, "on_unwanted", lambda *args: None)


@mutant()
def first_come() -> None:
    """Of several who wait for a result, one is sometimes left out."""
    from celery_green_drain.pending import PendingResult

    resolve = PendingResult.resolve

    def forgetful(self: Any, *args: Any) -> None:
        if len(self.waits) < 2 or not _rarely():
            resolve(self, *args)
            return
        last = self.waits[-1]
        self.audience.remove(last)
        resolve(self, *args)
        self.audience.append(last)

    _replace(PendingResult, "resolve", forgetful)


@mutant()
def calls_twice() -> None:
    """A callback is sometimes called twice."""
    from celery_green_drain.promises import Callback

    run = Callback.run

    def twice(self: Any, *args: Any) -> None:
        run(self, *args)
        if _rarely():
            run(self, *args)

    _replace(Callback, "run", twice)


@mutant()
def never_calls() -> None:
    """A callback is sometimes not called."""
    from celery_green_drain.promises import Callback

    run = Callback.run

    def never(self: Any, *args: Any) -> None:
        if not _rarely():
            run(self, *args)

    _replace(Callback, "run", never)


@mutant()
def mixes_up() -> None:
    """A result is sometimes handed to who waits for another."""
    from celery_green_drain.table import PendingTable

    update = PendingTable.update
    before: list[Any] = [None]

    def mixed(self: Any, task_id: str, meta: Any, *args: Any, **kwargs: Any) -> Any:
        other, before[0] = before[0], meta
        if other is not None and _rarely():
            meta = {**meta, "status": other["status"], "result": other["result"]}
        return update(self, task_id, meta, *args, **kwargs)

    _replace(PendingTable, "update", mixed)


@mutant()
def gives_up_early() -> None:
    """A timeout ends a fifth too early."""
    from celery_green_drain.pending import Wait

    sleep = Wait._sleep

    def briefly(self: Any, deadline: float | None = None, tick: float | None = None) -> Any:
        if deadline is not None:
            deadline -= (deadline - time.monotonic()) / 5
        return sleep(self, deadline, tick)

    _replace(Wait, "_sleep", briefly)


@mutant()
def goes_backwards() -> None:
    """A watcher is sometimes shown a state again after a newer one."""
    from celery_green_drain.pending import InboxWait

    put = InboxWait.put
    before: dict[Any, Any] = {}

    def again(self: Any, pending: Any, meta: Any) -> None:
        put(self, pending, meta)
        older = before.get(pending.task_id)
        before[pending.task_id] = meta
        if older is not None and meta is not None and _rarely():
            put(self, pending, older)

    _replace(InboxWait, "put", again)


@mutant("--weather", "fork")
def shares_with_children() -> None:
    """A forked child goes on with what is its parent's."""
    from celery_green_drain.consumers.base import ResultConsumer

    _replace(ResultConsumer, "after_fork_in_child", lambda self: None)


@mutant("--weather", "fork")
def calls_in_children() -> None:
    """What is on its way in a process is called in its forked child as well."""
    from celery_green_drain import promises

    promises.os = type("os", (), {"getpid": lambda: 1})  # type: ignore[attr-defined]


@mutant()
def never_looks() -> None:
    """What was stored before somebody waits for it is not looked for."""
    from celery_green_drain.consumers.base import ResultConsumer

    deliver = ResultConsumer.deliver

    def messages_only(self: Any, *args: Any, stored: bool = False, **kwargs: Any) -> Any:
        return False if stored else deliver(self, *args, **kwargs)

    _replace(ResultConsumer, "deliver", messages_only)


@mutant("--weather", "cut", "reset")
def forgets_in_outages() -> None:
    """After an outage nobody subscribes again for those who have waited before."""
    from celery_green_drain.table import PendingTable

    _replace(PendingTable, "__iter__", lambda self: iter(()))


@mutant()
def loses_wakeups() -> None:
    """Who waits is sometimes not woken by what has come."""
    from celery_green_drain.pending import EndWait

    put = EndWait.put

    def quiet(self: Any, pending: Any, meta: Any) -> None:
        if not _rarely():
            put(self, pending, meta)

    _replace(EndWait, "put", quiet)


@mutant("--weather", "stop")
def never_stops() -> None:
    """The drain loop is not told to end."""
    from celery_green_drain import Drainer

    _replace(Drainer, "ask_to_stop", lambda self: None)


@mutant("--weather", "kill_loop")
def dies() -> None:
    """A drain loop that was killed is not started again."""
    from celery_green_drain import Drainer

    start = Drainer.start

    def first(self: Any) -> None:
        if self.loop is None:
            start(self)

    _replace(Drainer, "start", first)


@mutant("--rounds", "16", "--histories", "60", "--minutes", "4", "--weather")
def keeps_results() -> None:
    """All that has come is kept."""
    from celery_green_drain.pending import PendingResult

    kept: list[Any] = []
    resolve = PendingResult.resolve

    def keep(self: Any, *args: Any) -> None:
        kept.append([object() for _ in range(20)])
        resolve(self, *args)

    _replace(PendingResult, "resolve", keep)


def hunt(mode: str, seed: int, names: list[str]) -> bool:
    """Run the model with each bug; print what it found; return whether it has found all."""
    found = [_hunt_one(mode, seed, name) for name in names or MUTANTS]
    return all(found)


def _hunt_one(mode: str, seed: int, name: str) -> bool:
    bug = MUTANTS[name]
    command = [sys.executable, "-m", "tests.model", "--mutant", name, "--mode", mode]
    command += ["--seed", str(seed), "--minutes", str(MINUTES), *bug.arguments]
    begun = time.monotonic()
    model = subprocess.run(command, env=UNMEASURED, capture_output=True, text=True)
    fault = re.search(r"^FAULT in round (\d+), history \S+: (.*)", model.stdout, re.MULTILINE)
    seconds = time.monotonic() - begun
    how = f"round {fault[1]}: {fault[2]}" if fault else f"NOT FOUND {model.stderr[-2000:]}"
    print(f"{name:20}  {bug.text}\n{seconds:18.0f} s  {how:.95}", flush=True)
    return fault is not None
