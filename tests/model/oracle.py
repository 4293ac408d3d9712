"""The judge of what happened: it knows what each task brings, and how each wait may end."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import states, uuid
from celery.exceptions import TimeoutError

from celery_green_drain import DrainerStopped, State

from ..memory.results import state as success
from .worker import Step

__all__ = ("ALL", "LATE", "PATIENCE", "Call", "Oracle", "Plan", "Wait")

#: Default of :attr:`Oracle.late`.
LATE = 15.0

#: Seconds after which a wait never ends.
PATIENCE = 60.0

#: Lines of what happened last that are shown with a fault.
TAIL = 40

#: In place of a history's name, for what concerns all of them.
ALL = "--"

#: Name of the states on the way.
PROGRESS = "PROGRESS"


class Plan:
    """What a task is to bring: numbered states, and then a value of its own, or a failure.

    :param lost: whether messages may get lost, so that the store alone knows.
    """

    def __init__(self, rng: random.Random, lost: bool = False) -> None:
        self.id: str = uuid()
        self.value = f"{self.id[:8]} {rng.randrange(10**6)}"
        self.fails = rng.random() < 0.15
        #: Seconds after the order when the last state is stored.
        self.pause = rng.choice((0, 0, 0.001, 0.02, rng.random() * 0.3, rng.random()))
        #: When it is there, by the monotonic clock; None: it was not ordered so far.
        self.due: float | None = None
        self.lost = lost and rng.random() < 0.2
        self.steps = self._steps(rng)

    def _steps(self, rng: random.Random) -> list[Step]:
        steps = []
        for number in range(rng.choice((0, 0, 1, 3, 6))):
            meta = {"number": number, "value": self.value}
            body = json.dumps({"task_id": self.id, "status": PROGRESS, "result": meta})
            steps.append((self.pause * rng.random(), body, self._copies(rng)))
        steps = [(at, *rest) for at, (_, *rest) in zip(sorted(s[0] for s in steps), steps)]
        copies = 0 if self.lost else rng.choice((1, 1, 1, 2))
        return [*steps, (self.pause, self._end(), copies)]

    def _copies(self, rng: random.Random) -> int:
        return 0 if self.lost and rng.random() < 0.5 else rng.choice((1, 1, 1, 2))

    def _end(self) -> str:
        if not self.fails:
            return json.dumps({**json.loads(success(self.id)), "result": self.value})
        error = {"exc_type": "ValueError", "exc_module": "builtins", "exc_message": [self.value]}
        return json.dumps({"task_id": self.id, "status": states.FAILURE, "result": error})

    def ordered(self) -> None:
        # Before the order is given, as what comes of it may be there at once.
        self.due = time.monotonic() + self.pause

    def is_own(self, outcome: Any) -> bool:
        """Whether *outcome* is what this task returned or raised."""
        if self.fails:
            return type(outcome) is ValueError and str(outcome) == self.value
        return bool(outcome == self.value)


class Wait:
    """One that waits, and must end once.

    :param plans: of the tasks that it waits for.
    :param timeout: what it was given; None: none, and it may end with the result only.
    :param unsure: the results may never come, or may be asked for when they are forgotten.
    """

    def __init__(
        self,
        oracle: Oracle,
        name: str,
        what: str,
        plans: list[Plan],
        timeout: float | None = None,
        unsure: bool = False,
    ) -> None:
        oracle.at_home()
        self._oracle = oracle
        self.name = name
        self.what = what
        self.plans = plans
        self._timeout = timeout
        self._unsure = unsure
        self.begun = time.monotonic()
        self.ends = 0
        self._newest = {plan.id: -1 for plan in plans}
        oracle.open.add(self)
        oracle.note(name, "begins", what, f"timeout={timeout}", *(plan.id[:8] for plan in plans))

    def run(self, function: Callable[[], Any], killed: Callable[[], bool] | None = None) -> str:
        """Call it, and judge how it ends; return how: value, timeout, stopped, killed.

        :param killed: whether somebody means to kill this greenlet.
        """
        try:
            value = function()
        except TimeoutError as exc:
            return self.timed_out(exc)
        except DrainerStopped:
            return self.stopped()
        except ValueError as exc:
            self.got(exc)
            return "value"
        except Exception as exc:
            self._end("error", repr(exc))
            self._oracle.fault(self.name, f"{self.what} raised {exc!r}")
            return "error"
        except BaseException as exc:
            self._end("killed", repr(exc))
            if killed is None or not killed():
                self._oracle.fault(self.name, f"{self.what} was ended by {exc!r}")
            raise
        self.got(value)
        return "value"

    def _end(self, how: str, *details: object) -> None:
        self._oracle.at_home()
        self.ends += 1
        self._oracle.open.discard(self)
        self._oracle.counts[how] = self._oracle.counts.get(how, 0) + 1
        self._oracle.note(self.name, "ends", self.what, how, *details)
        if self.ends > 1:
            self._oracle.fault(self.name, f"{self.what} has ended {self.ends} times")

    def got(self, outcome: Any) -> None:
        """It ends with what a task, or a list of them, brought."""
        self._end("value", repr(outcome)[:60])
        outcomes = outcome if isinstance(outcome, list) else [outcome]
        failed = [plan for plan in self.plans if plan.fails]
        if isinstance(outcome, ValueError):  # the first failure of a group
            right = any(plan.is_own(outcome) for plan in failed)
        else:
            right = len(outcomes) == len(self.plans) and all(
                plan.is_own(one) for plan, one in zip(self.plans, outcomes)
            )
        if not right:
            expected = [plan.value for plan in self.plans]
            self._oracle.fault(self.name, f"{self.what} got {outcome!r}, not {expected}")
        self.judge_time()

    def judge_time(self) -> None:
        """See that what came was not late."""
        due = self._due()
        if due is None:
            self._oracle.fault(self.name, f"{self.what} got a result that was not sent")
        elif time.monotonic() - due > self._oracle.late:
            late = time.monotonic() - due
            self._oracle.fault(self.name, f"{self.what} got its result {late:.1f} s late")

    def _due(self) -> float | None:
        """When all results were there and nothing was in the way; None: some are not."""
        due = self.begun
        for plan in self.plans:
            if plan.due is None:
                return None
            due = max(due, plan.due + (self._oracle.reconciled if plan.lost else 0))
        return max(due, self._oracle.troubled_until)

    def timed_out(self, exc: BaseException) -> str:
        self._end("timeout", str(exc))
        passed = time.monotonic() - self.begun
        if self._timeout is None:
            self._oracle.fault(self.name, f"{self.what} timed out, and has no timeout")
        elif passed < self._timeout - 0.01:
            self._oracle.fault(
                self.name, f"{self.what} timed out after {passed:.2f} of {self._timeout:.2f} s"
            )
        elif (
            passed > self._timeout + self._oracle.late
            and time.monotonic() > self._oracle.troubled_until
        ):
            self._oracle.fault(
                self.name, f"{self.what} timed out after {passed:.1f}, not {self._timeout:.2f} s"
            )
        due = self._due()
        late = self._oracle.late
        if not self._unsure and due is not None and due + late < self.begun + self._timeout:
            stored = [self._oracle.stored(plan.id) for plan in self.plans]
            self._oracle.fault(
                self.name, f"{self.what} timed out though its result was there: {stored}"
            )
        return "timeout"

    def stopped(self) -> str:
        self._end("stopped")
        if self.begun > self._oracle.stopped_at:
            self._oracle.fault(self.name, f"{self.what} was told of a stop before it began")
        return "stopped"

    def ended(self, how: str) -> None:
        """It ends by itself, as it may: a watcher that looks no further, a green timeout."""
        self._end(how)

    def saw(self, task_id: str, status: str, result: Any) -> None:
        """A state on the way, or the last: see that it is this task's own, and not an older one."""
        self._oracle.at_home()
        plan = next((plan for plan in self.plans if plan.id == task_id), None)
        self._oracle.note(self.name, self.what, "saw", task_id[:8], status, repr(result)[:60])
        if plan is None:
            self._oracle.fault(self.name, f"{self.what} saw a state of {task_id}")
        elif status in states.READY_STATES:
            self._see(plan, 1000, plan.is_own(result), result)
        elif status == PROGRESS:
            self._see(plan, result["number"], result["value"] == plan.value, result)
        elif status != states.PENDING:
            self._oracle.fault(self.name, f"{self.what} saw the state {status}")

    def _see(self, plan: Plan, number: int, own: bool, result: Any) -> None:
        if not own:
            self._oracle.fault(self.name, f"{self.what} saw {result!r}, which is another task's")
        newest, self._newest[plan.id] = self._newest[plan.id], number
        if number < newest:
            self._oracle.fault(self.name, f"{self.what} saw state {number} after {newest}")

    def saw_state(self, state: State) -> None:
        self.saw(state.task_id, state.status, state.result)
        if not (0 <= state.done <= state.total == len(self.plans)):
            self._oracle.fault(self.name, f"{self.what} saw {state}")

    def saw_meta(self, meta: dict[str, Any]) -> None:
        self.saw(meta.get("task_id", self.plans[0].id), meta["status"], meta["result"])


class Call:
    """A callback, which must be called once; *unsure*: or not at all.

    ``function`` and ``on_error`` are what to give to ``then()``.
    """

    def __init__(
        self,
        oracle: Oracle,
        name: str,
        plans: list[Plan],
        then: Callable[[Any], object] | None = None,
        unsure: bool = False,
    ) -> None:
        self._oracle = oracle
        self._wait = Wait(oracle, name, "then()", plans)
        self._then = then
        self._unsure = unsure
        self.called = threading.Event()

    def function(self, result: Any) -> None:
        self._call(lambda: self._wait.got(result.get(timeout=0, propagate=False)))
        if self._then is not None:
            self._then(result)

    def on_error(self, error: BaseException) -> None:
        self._call(lambda: self._wait.got(error))

    def _call(self, judge: Callable[[], None]) -> None:
        if not self._oracle.is_home:
            self._oracle.strange(
                f"the child has called a callback of its parent: {self._wait.name}"
            )
        try:
            judge()
        finally:
            self.called.set()

    def expect(self, patience: float = PATIENCE) -> None:
        """Wait until it was called."""
        if self._unsure:
            self.give_up()
        else:
            self.called.wait(patience)

    def give_up(self) -> None:
        """It may never be called, and may still be."""
        self._oracle.open.discard(self._wait)


class Oracle:
    """What was begun in this process, what may be in its way, and what is wrong."""

    def __init__(
        self, command: str, stored: Callable[[str], Any], limit: int = 1, late: float = LATE
    ) -> None:
        #: Seconds after which a result that has come is late, unless something was in its way.
        self.late = late
        #: What the server has of a task, for those who look into a fault.
        self.stored = stored
        self._command = command
        self._limit = limit
        self._pid = os.getpid()
        self._tail: deque[tuple[Any, ...]] = deque(maxlen=3_000)
        self._numbers = itertools.count(1)
        self.open: set[Wait] = set()
        self.counts: dict[str, int] = {}
        self.faults: list[str] = []
        #: Where the run is, for the line that tells how to run it again.
        self.round = 0
        #: Until when something is in the way of results.
        self.troubled_until = 0.0
        #: When the last stop() of the drainer has ended.
        self.stopped_at = 0.0
        #: Seconds until a result is found of which no message came.
        self.reconciled = 0.0

    # -- in a child after a fork

    @property
    def is_home(self) -> bool:
        return os.getpid() == self._pid

    def at_home(self) -> None:
        """Let a copy of the parent's greenlets go no further in a forked child."""
        if not self.is_home:
            threading.Event().wait()

    def strange(self, text: str) -> None:
        """End this child with a fault, which its parent reads."""
        os.write(2, f"{text}\n".encode())
        os._exit(3)

    # -- what happens

    def note(self, name: str, *what: object) -> None:
        self._tail.append((time.monotonic(), name, *what))

    def trouble(self, seconds: float, what: str) -> None:
        """Something is in the way of results, for so long from now on."""
        self.note(ALL, what, f"({seconds:.2f} s)")
        self.troubled_until = max(self.troubled_until, time.monotonic() + seconds)

    @contextmanager
    def outage(self, recovery: float, what: str) -> Iterator[None]:
        """The same for as long as the body takes, and *recovery* seconds more."""
        until, self.troubled_until = self.troubled_until, math.inf
        self.note(ALL, what)
        try:
            yield
        finally:
            self.troubled_until = until
            self.trouble(recovery, f"the end of {what}")

    def in_trouble(self, since: float) -> bool:
        return self.troubled_until > since

    # -- what is wrong

    def fault(self, name: str, text: str) -> None:
        """Tell what is wrong, what has happened before, and how to run it again."""
        self.at_home()
        if self.over:
            return
        self.faults.append(text)
        self.note(name, "FAULT:", text.partition("\n")[0])
        now = time.monotonic()
        events = list(self._tail)
        lines = [f"FAULT in round {self.round}, history {name}: {text}"]
        parts = {"What happened to it:": name} if name != ALL else {}
        for heading, whose in {**parts, "What happened to all:": ALL}.items():
            lines.append(heading)
            for at, _, *what in [event for event in events if event[1] == whose][-TAIL:]:
                lines.append(f"{at - now:9.3f} s  {' '.join(map(str, what))}")
        lines.append(f"To run it again: {self._command} --first {self.round}")
        print("\n".join(lines), flush=True)

    @property
    def over(self) -> bool:
        """Whether enough is wrong."""
        return len(self.faults) >= self._limit

    def never_ended(self) -> None:
        """All waits should have ended by now."""
        for wait in list(self.open):
            self.open.discard(wait)
            self.fault(wait.name, f"{wait.what} has never ended")
