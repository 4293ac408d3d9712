"""One history: some tasks, and all that is done with their results at once, at random moments."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import group
from celery.exceptions import TimeoutError
from celery.result import ResultSet
from greenlet import GreenletExit

from celery_green_drain import DrainerStopped, watch

from ..green import GREEN, MODE, kill, spawn
from .oracle import PATIENCE, Call, Oracle, Plan, Wait

if TYPE_CHECKING:
    from .runner import Model

__all__ = ("History", "OnPurpose")

#: Seconds of a timeout that is to be long enough for any result.
LONG = 30.0

#: Results that one wait asks for: a list of one, or the members of a group.
Results = list[Any]


class OnPurpose(Exception):
    """Raised by callbacks."""


class History:
    """The tasks, and who asks for them.

    :param rng: makes all choices, so that the same seed brings the same history.
    """

    def __init__(self, model: Model, name: str, rng: random.Random) -> None:
        self.model = model
        self.name = name
        self.rng = rng
        #: Whether somebody forgets the results, so that others may wait for them in vain.
        self.forgets = rng.random() < 0.06
        lost = model.weather.loses and not self.forgets
        count = rng.randint(2, 5) if rng.random() < 0.25 else 1
        self.plans = [Plan(rng, lost) for _ in range(count)]
        #: What sending them returned: an AsyncResult or a GroupResult.
        self.sent: Any = None

    @property
    def oracle(self) -> Oracle:
        return self.model.oracle

    def run(self) -> None:
        rng = self.rng
        self.oracle.note(
            self.name, *((plan.id[:8], plan.steps[-1][::2], len(plan.steps)) for plan in self.plans)
        )
        actors = [rng.choice(self._kinds()) for _ in range(rng.randint(1, 5))]
        if self.forgets:
            actors.append(forget)
        later = self._send()
        left = [len(actors)]
        done = threading.Event()
        lock = threading.Lock()

        def act(actor: Actor, rng: random.Random) -> None:
            try:
                if rng.random() < 0.6:
                    time.sleep(rng.choice((0, 0.01, rng.random() * 0.4)))
                self.oracle.at_home()
                actor(self, rng)
            except Exception as exc:
                self.oracle.fault(self.name, f"{actor.__name__} raised {exc!r}")
            finally:
                with lock:
                    left[0] -= 1
                if not left[0]:
                    done.set()

        for number, actor in enumerate(actors):
            spawn(act, actor, random.Random(rng.random() + number))
        if later is not None:
            time.sleep(rng.choice((0, rng.random() * 0.3)))
            self.oracle.at_home()  # or a forked child would give the order once more
            later()
        done.wait(PATIENCE + LONG)
        self.oracle.at_home()
        if not done.is_set():
            names = ", ".join(actor.__name__ for actor in actors)
            self.oracle.fault(self.name, f"it has not ended; its actors were {names}")

    def _kinds(self) -> tuple[Actor, ...]:
        return ACTORS if GREEN else tuple(a for a in ACTORS if a not in (killed, in_time))

    # -- sending

    def _send(self) -> Callable[[], None] | None:
        """Send the tasks; return what gives the worker its orders later, if that is to be done."""
        app, model = self.model.app, self.model
        task = app.tasks["nap"]
        if len(self.plans) > 1:
            members = [task.s(0).set(task_id=plan.id) for plan in self.plans]
            with model.io():
                model.expect(self.plans)
                self.sent = group(members)()
            return None
        (plan,) = self.plans
        if not model.side.stores or self.rng.random() < 0.5:
            with model.io():
                model.expect(self.plans)
                self.sent = task.apply_async((0,), task_id=plan.id)
            return None
        # As where another process has sent it.
        self.sent = app.AsyncResult(plan.id)
        if self.rng.random() < 0.5:
            return lambda: model.order(plan)
        model.order(plan)
        return None

    def results(self, rng: random.Random) -> Results:
        """The results, or others of the same tasks."""
        if rng.random() < 0.5:
            return [self.model.app.AsyncResult(plan.id) for plan in self.plans]
        return list(self.sent.results) if len(self.plans) > 1 else [self.sent]

    def whole(self, rng: random.Random) -> Any:
        """The group of several results, or the one."""
        if rng.random() < 0.6:
            return self.sent
        results = self.results(rng)
        return results[0] if len(results) == 1 else ResultSet(results, app=self.model.app)

    def wait(self, what: str, timeout: float | None = None) -> Wait:
        return Wait(self.oracle, self.name, what, self.plans, timeout, unsure=self.forgets)


Actor = Callable[[History, random.Random], None]


# -- the ways to wait


def plain(history: History, wait: Wait, whole: Any, timeout: float | None) -> Any:
    return whole.get(timeout=timeout)


def unpropagated(history: History, wait: Wait, whole: Any, timeout: float | None) -> Any:
    return whole.get(timeout=timeout, propagate=False)


def with_messages(history: History, wait: Wait, whole: Any, timeout: float | None) -> Any:
    return whole.get(timeout=timeout, on_message=wait.saw_meta)


def with_interval(history: History, wait: Wait, whole: Any, timeout: float | None) -> Any:
    ticks: list[int] = []
    return whole.get(timeout=timeout, interval=0.05, on_interval=lambda: ticks.append(1))


def watched(history: History, wait: Wait, whole: Any, timeout: float | None) -> Any:
    ends = {}
    for state in watch(whole, timeout=timeout):
        wait.saw_state(state)
        if state.ready:
            if state.task_id in ends:
                history.oracle.fault(history.name, f"{wait.what} saw {state.task_id} end twice")
            ends[state.task_id] = state.result
    outcomes = [ends[plan.id] for plan in history.plans]
    return outcomes if len(outcomes) > 1 else outcomes[0]


def iterated(history: History, wait: Wait, whole: Any, timeout: float | None) -> Any:
    ends: dict[str, Any] = {}
    for task_id, meta in whole.iter_native(timeout=timeout):
        wait.saw(task_id, meta["status"], meta["result"])
        if task_id in ends:
            history.oracle.fault(history.name, f"{wait.what} was given {task_id} twice")
        ends[task_id] = meta["result"]
    return [ends[plan.id] for plan in history.plans]


Way = Callable[[History, Wait, Any, "float | None"], Any]

WAYS: tuple[Way, ...] = (plain, plain, unpropagated, with_messages, with_interval, watched)


def _way(history: History, rng: random.Random) -> Way:
    if len(history.plans) > 1:
        return rng.choice((plain, unpropagated, watched, iterated))
    return rng.choice(WAYS)


# -- what ends a wait


def patient(history: History, rng: random.Random) -> None:
    """Wait until it comes; where the drainer is stopped meanwhile, wait again."""
    way, whole = _way(history, rng), history.whole(rng)
    timeout = 0.3 if history.forgets else rng.choice((LONG, LONG, None))
    while True:
        wait = history.wait(f"a patient {way.__name__}", timeout)
        if wait.run(partial(way, history, wait, whole, timeout)) != "stopped":
            return


def impatient(history: History, rng: random.Random) -> None:
    """Wait for a short time; some wait again, and some for long then."""
    way, whole = _way(history, rng), history.whole(rng)
    for _ in range(rng.randint(1, 3)):
        timeout = rng.choice((0.001, 0.01, rng.random() * 0.2, rng.random()))
        wait = history.wait(f"an impatient {way.__name__}", timeout)
        if wait.run(partial(way, history, wait, whole, timeout)) == "value":
            return
    if rng.random() < 0.5:
        patient(history, rng)


def glance(history: History, rng: random.Random) -> None:
    """Look once whether it is there."""
    way = rng.choice((plain, watched) if len(history.plans) == 1 else (plain, iterated))
    whole, since = history.whole(rng), time.monotonic()
    with history.model.io():
        wait = history.wait(f"a glance by {way.__name__}", 0)
        try:
            outcome = way(history, wait, whole, rng.choice((0, -1)))
        except TimeoutError as exc:
            wait.timed_out(exc)
        except ValueError as exc:
            wait.got(exc)
        except history.model.outages as exc:
            wait.ended("outage")
            history.model.judge_outage(history.name, since, exc)
        else:
            wait.got(outcome)


def killed(history: History, rng: random.Random) -> None:
    """Wait in a greenlet that is killed."""
    way, whole = _way(history, rng), history.whole(rng)
    timeout, is_killed = rng.choice((None, LONG)), False

    def body() -> None:
        wait = history.wait(f"a killed {way.__name__}", timeout)
        with suppress(GreenletExit):
            wait.run(partial(way, history, wait, whole, timeout), lambda: is_killed)

    victim = spawn(body)
    if rng.random() < 0.8:
        time.sleep(rng.choice((0, 0.001, rng.random() * 0.3)))
    is_killed = True
    kill(victim)


def in_time(history: History, rng: random.Random) -> None:
    """Wait within a timeout of the green library."""
    way, whole = _way(history, rng), history.whole(rng)
    timeout = rng.choice((None, LONG))
    wait = history.wait(f"a {way.__name__} in a green timeout", timeout)
    limit = _green_timeout(rng.choice((0.001, rng.random() * 0.3)))
    try:
        wait.run(partial(way, history, wait, whole, timeout), lambda: True)
    except BaseException as exc:
        if exc is not limit:
            raise
    finally:
        limit.cancel()


def _green_timeout(seconds: float) -> Any:
    if MODE == "gevent":
        import gevent

        return gevent.Timeout.start_new(seconds)
    import eventlet

    return eventlet.Timeout(seconds)


def watch_some(history: History, rng: random.Random) -> None:
    """Watch the first states, and look no further."""
    wait = history.wait("a short watch", LONG)
    count = rng.randint(1, 3)

    def look() -> Any:
        states = watch(history.whole(rng), timeout=0.3 if history.forgets else LONG)
        try:
            for number, state in enumerate(states, 1):
                wait.saw_state(state)
                if number == count:
                    break
        finally:
            states.close()

    try:
        look()
    except TimeoutError as exc:
        wait.timed_out(exc) if not history.forgets else wait.ended("timeout")
    except DrainerStopped:
        wait.stopped()
    else:
        wait.ended("closed")


# -- callbacks


def call_back(history: History, rng: random.Random) -> None:
    """Be called back, by a callback that behaves, or one that does not."""
    whole = history.whole(rng)
    if rng.random() < 0.2 and len(history.plans) == 1:
        whole.then(_raising, _raising)
    then = rng.choice((None, None, *MISDEEDS))
    call = Call(history.oracle, history.name, history.plans, then, unsure=history.forgets)
    # Of one that raises, its own on_error is told, as with any promise.
    if then is not _raising and rng.random() < 0.5:
        whole.then(call.function, call.on_error)
    else:
        whole.then(call.function)
    if history.forgets:
        time.sleep(rng.random() * 0.3)
        for result in whole.results if len(history.plans) > 1 else [whole]:
            history.model.app.backend.remove_pending_result(result)
    elif rng.random() < 0.5:
        del whole
        gc.collect()
    call.expect()


def _raising(_: Any) -> None:
    raise OnPurpose


def _sleeping(_: Any) -> None:
    time.sleep(0.2)


def _exiting(_: Any) -> None:
    if GREEN:
        raise GreenletExit


def _chaining(result: Any) -> None:
    result.then(lambda _: None)
    time.sleep(0)


MISDEEDS = (_raising, _sleeping, _exiting, _chaining)


# -- and others


def read(history: History, rng: random.Random) -> None:
    """Read the state now and then, as a page that is reloaded does."""
    results = history.results(rng)
    for _ in range(rng.randint(1, 4)):
        for result, plan in zip(results, history.plans):
            since = time.monotonic()
            try:
                with history.model.io():
                    state, outcome = result.state, result.result
            except history.model.outages as exc:
                history.model.judge_outage(history.name, since, exc)
                continue
            if state in ("SUCCESS", "FAILURE") and not history.forgets:
                ready = state == ("FAILURE" if plan.fails else "SUCCESS")
                if not (ready and plan.is_own(outcome)):
                    text = f"a reader got {state} {outcome!r}, not {plan.value}"
                    history.oracle.fault(history.name, text)
        time.sleep(rng.random() * 0.1)


def forget(history: History, rng: random.Random) -> None:
    """Forget the results, as another request does."""
    time.sleep(rng.random() * 0.3)
    since = time.monotonic()
    for result in [history.model.app.AsyncResult(plan.id) for plan in history.plans]:
        try:
            with history.model.io():
                result.forget()
        except history.model.outages as exc:
            history.model.judge_outage(history.name, since, exc)


def drop(history: History, rng: random.Random) -> None:
    """Have results collected of which callbacks and waits know nothing."""
    results = history.results(rng)
    if rng.random() < 0.5:
        cycle: list[Any] = [results]
        cycle.append(cycle)
    del results
    gc.collect(rng.randint(0, 2))


ACTORS: tuple[Actor, ...] = (
    *(patient, patient, patient),
    *(impatient, impatient),
    *(killed, killed),
    in_time,
    *(call_back, call_back, call_back),
    *(watch_some, glance, read, drop),
)
