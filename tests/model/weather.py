"""What goes on around the histories: stops, forks, lost connections, a busy hub, garbage."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_green_drain import watch
from celery_green_drain.drainers.base import STOP_TIMEOUT

from ..green import GREEN, drain_loops, kill, loop_greenlets
from .oracle import ALL, LATE, Plan

if TYPE_CHECKING:
    from .runner import Model

__all__ = ("Climate", "Weather", "disturb")

#: Settings of the drainer, so that what is lost is noticed soon. Seconds.
HEARTBEAT = 1.0
RETRY_MAX = 1.0
RECONCILE = 1.0

#: Seconds from the end of an outage until all has come that was sent meanwhile.
RECOVERY = 2 * HEARTBEAT + 2 * RETRY_MAX

#: Seconds that a forked child has.
CHILDHOOD = 30.0


#: Seconds between two disturbances, at most, where it is no outage that is to be got over.
PAUSE = 1.5

OUTAGES = ("cut", "reset", "refuse", "swallow", "stop")


@dataclass(frozen=True)
class Weather:
    """What may happen in one round."""

    #: Whether messages may get lost.
    loses: bool
    #: Names of disturbances.
    disturbances: tuple[str, ...]
    #: Objects that are allocated until garbage is looked for.
    threshold: int


class Climate:
    """What weather there may be.

    :param forks: whether this process may fork.
    :param stores: whether results outlive their messages.
    :param always: disturbances of each round; None: some are drawn for each.
    """

    def __init__(self, forks: bool, stores: bool, always: list[str] | None = None) -> None:
        self._names = [name for name in DISTURBANCES if forks or name != "fork"]
        if not GREEN:
            self._names.remove("kill_loop")  # a thread cannot be killed
        self._stores = stores
        self._always = always

    def draw(self, rng: random.Random, reconciles: bool) -> Weather:
        """The weather of a round.

        :param reconciles: whether messages may get lost, as something makes up for them.
        """
        count = rng.choice((0, 1, 2, len(self._names)))
        names = rng.sample(self._names, count)
        return Weather(
            loses=self._stores and reconciles and rng.random() < 0.6,
            disturbances=tuple(names if self._always is None else self._always),
            threshold=rng.choice((700, 700, 100, 20)),
        )


def disturb(model: Model, rng: random.Random, over: threading.Event) -> None:
    """Do what the weather brings, until the histories of the round are over."""
    while model.weather.disturbances and not over.is_set():
        name = rng.choice(model.weather.disturbances)
        DISTURBANCES[name](model, rng)
        # After most outages it is calm for so long that all that was sent comes meanwhile.
        over.wait(rng.random() * (PAUSE if name not in OUTAGES else 2 * RECOVERY))


def stop(model: Model, rng: random.Random) -> None:
    """The drainer is stopped, and perhaps started again."""
    oracle, consumer = model.oracle, model.app.backend.result_consumer
    oracle.trouble(oracle.late, "stop")
    oracle.stopped_at = float("inf")
    begun = time.monotonic()
    consumer.stop()
    oracle.stopped_at = time.monotonic()
    if oracle.stopped_at - begun >= STOP_TIMEOUT * oracle.late / LATE:
        oracle.fault(ALL, f"stop() took {oracle.stopped_at - begun:.1f} s")
    time.sleep(rng.choice((0, 0, rng.random() * 0.1)))
    # Callbacks need one who starts it, and that is not always somebody who waits.
    consumer.start()
    oracle.trouble(RECOVERY, "start")


def cut(model: Model, rng: random.Random) -> None:
    """The server closes the connections."""
    with model.oracle.outage(RECOVERY, "cut"):
        model.side.cut()


def reset(model: Model, rng: random.Random) -> None:
    """The network resets all connections."""
    with model.oracle.outage(RECOVERY, "reset"):
        model.side.proxy.reset()


def refuse(model: Model, rng: random.Random) -> None:
    """The same, and it refuses new ones for a while."""
    seconds = rng.random()
    with model.oracle.outage(RECOVERY, "refuse"):
        model.side.proxy.refuse()
        time.sleep(seconds)
        model.side.proxy.pass_on()


def swallow(model: Model, rng: random.Random) -> None:
    """The network swallows everything for a while, and leaves connections open."""
    if rng.random() < 0.5:
        return  # less often than others, as it takes longer
    seconds = rng.random() * 2
    with model.oracle.outage(2 * RECOVERY, "swallow"):
        model.side.proxy.swallow()
        time.sleep(seconds)
        model.side.proxy.pass_on()


def busy(model: Model, rng: random.Random) -> None:
    """The hub is busy, and with threads this one."""
    end = time.perf_counter() + rng.choice((0.01, 0.05, 0.2))
    model.oracle.note(ALL, "busy")
    while time.perf_counter() < end:
        pass


def collect(model: Model, rng: random.Random) -> None:
    """Garbage is collected."""
    gc.collect(rng.randint(0, 2))


def kill_loop(model: Model, rng: random.Random) -> None:
    """Somebody kills the drain loop's greenlet."""
    if rng.random() < 0.5:
        return
    model.oracle.trouble(RECOVERY, "kill_loop")
    for loop in loop_greenlets():
        kill(loop)


def fork(model: Model, rng: random.Random) -> None:
    """The process forks. The child waits for something of its own, and tells how that went."""
    plan = Plan(rng)
    choices = random.Random(rng.random())
    with model.alone():
        model.oracle.note(ALL, "fork")
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _grow_up(model, plan, choices)
            code = 0
        except BaseException as exc:
            os.write(2, f"a child: {exc!r}\n".encode())
        finally:
            os._exit(code)
    if rng.random() < 0.3:
        busy(model, rng)  # so that the child is first
    deadline = time.monotonic() + CHILDHOOD
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGUSR1)  # it tells where it is
            time.sleep(1)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            model.oracle.fault(ALL, f"a child has never ended: {model.errors.new()}")
            return
        time.sleep(0.01)
    model.oracle.note(ALL, "child ends", ended[1])
    if ended[1]:
        model.oracle.fault(ALL, f"a child ended with {ended[1]}: {model.errors.new()}")


def _grow_up(model: Model, plan: Plan, rng: random.Random) -> None:
    """In the child: wait for a result of its own, in some way."""
    consumer = model.app.backend.result_consumer
    assert consumer.statistics().pending == 0, consumer.statistics()
    result = model.app.AsyncResult(plan.id)
    called: list[Any] = []
    ended = threading.Event()

    def note(result: Any) -> None:
        called.append(result)
        ended.set()

    way = rng.choice(("get", "then", "watch", "watch"))
    if way == "then":
        result.then(note)
    model.send_from_child(plan)
    if way == "watch":
        *_, last = watch(result, timeout=CHILDHOOD / 2)
        assert plan.is_own(last.result), f"{last} is not {plan.value}"
    elif way == "then":
        assert ended.wait(CHILDHOOD / 2), "the callback was not called"
    outcome = result.get(timeout=CHILDHOOD / 2, propagate=False)
    assert plan.is_own(outcome), f"{outcome!r} is not {plan.value}"
    assert len(called) == (way == "then"), called
    if rng.random() < 0.3:
        assert drain_loops() == 1, f"{drain_loops()} loops"
    consumer.stop()


DISTURBANCES: dict[str, Callable[[Any, random.Random], None]] = {
    function.__name__: function
    for function in (stop, cut, reset, refuse, swallow, busy, collect, kill_loop, fork)
}
