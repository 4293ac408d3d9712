"""Connections and lanes, handed out in turn: none gets lost, and nobody is passed over."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from queue import Empty, Full
from typing import Any

import pytest
import redis
from celery import Celery

from celery_green_drain import drainers
from celery_green_drain.drainers import lanes
from celery_green_drain.drainers.slots import Slots

from .green import GREEN, MODE, block, crowd, green_timeout, kill, size, spawn, wait_until

green = pytest.mark.skipif(not GREEN, reason="a thread cannot be killed")


@pytest.fixture
def slots() -> Slots:
    slots = Slots(2, drainers.fitting().own_signal)
    for thing in "ab":
        slots.put_nowait(thing)
    return slots


def wait(slots: Slots, taken: list[Any]) -> Any:
    """Ask for one beside the test, and wait until that stands in the line."""
    line = len(slots.waiting)
    waiting = spawn(lambda: taken.append(slots.get(timeout=30)))
    wait_until(lambda: len(slots.waiting) > line, "the caller to wait")
    return waiting


def test_one_after_another(slots: Slots) -> None:
    assert [slots.get(), slots.get()] == ["b", "a"]
    with pytest.raises(Empty):
        slots.get(block=False)
    begun = time.monotonic()
    with pytest.raises(Empty):
        slots.get(timeout=0.2)
    assert time.monotonic() - begun >= 0.2
    slots.put_nowait("a")
    assert slots.get(timeout=1) == "a"
    for thing in "ab":
        slots.put_nowait(thing)
    with pytest.raises(Full):
        slots.put_nowait("c")
    assert len(slots.queue) == 2


def test_who_leaves_as_its_turn_comes_takes_no_turn_along() -> None:
    """In threads it may leave after it was taken out of the line, and before it is called."""

    class Late(set[Any]):
        def add(self, element: Any) -> None:
            time.sleep(0.3)
            super().add(element)

    slots = Slots(1, drainers.fitting().own_signal)
    slots.called = Late()
    left: list[Exception] = []

    def leave() -> None:
        try:
            slots.get(timeout=0.1)
        except Empty as exc:
            left.append(exc)

    spawn(leave)
    wait_until(lambda: slots.waiting, "the caller to wait")
    slots.put_nowait("a")
    wait_until(lambda: left, "the caller to leave")
    assert slots.get(timeout=20) == "a"


def test_who_asks_later_has_to_wait(slots: Slots) -> None:
    things = [slots.get(), slots.get()]
    first: list[Any] = []
    second: list[Any] = []
    wait(slots, first)
    wait(slots, second)
    slots.put_nowait(things.pop())
    if GREEN:  # the one whose turn it is has not run so far
        with pytest.raises(Empty):
            slots.get(timeout=0.0)
    wait_until(lambda: first, "the first in the line")
    assert not second
    slots.put_nowait(first.pop())
    wait_until(lambda: second, "the second")


@green
def test_a_turn_is_passed_on_by_who_is_killed(slots: Slots) -> None:
    things = [slots.get(), slots.get()]
    first: list[Any] = []
    second: list[Any] = []
    killed = wait(slots, first)
    wait(slots, second)
    if MODE == "gevent":  # it is called, and killed before it runs
        killed.kill(block=False)
        slots.put_nowait(things.pop())
    else:
        slots.put_nowait(things.pop())
        kill(killed)
    wait_until(lambda: second, "the second in the line")
    slots.put_nowait(second.pop())
    slots.put_nowait(things.pop())
    assert len(slots.queue) == 2
    assert not first
    assert not slots.called


def test_a_crowd_that_gives_up_and_comes_back(slots: Slots) -> None:
    """Each in threads or greenlets of its own, with time limits that end anywhere."""
    deadline = time.monotonic() + 2

    def use(number: int) -> int:
        chance = random.Random(number)
        used = 0
        while time.monotonic() < deadline:
            try:
                thing = slots.get(timeout=chance.uniform(0, 0.01))
            except Empty:
                continue
            time.sleep(chance.uniform(0, 0.002))
            slots.put_nowait(thing)
            used += 1
        return used

    used = crowd(size(100, 20), use)
    assert all(isinstance(count, int) for count in used), used
    assert sorted(slots.queue) == ["a", "b"]
    assert not slots.waiting
    assert not slots.called


@green
def test_time_limits_around_single_commands(app: Celery, store: Callable[..., str]) -> None:
    """They take no connection out of the pool, wherever they end a call."""
    key = app.backend.get_key_for_task(store(1))
    client = app.backend.client
    assert client.get(key)
    deadline = time.monotonic() + 3
    answers = [0]

    def ask(number: int) -> int:
        chance = random.Random(number)
        asked = 0
        while time.monotonic() < deadline:
            asked += 1
            with green_timeout(chance.choice([0.001, 0.01, 0.05, 0.5])):
                client.get(key)
                answers[0] += 1
        return asked

    asked = crowd(50, ask)
    assert 0 < answers[0] < sum(asked)
    pool = client.connection_pool
    assert len(pool.pool.queue) == pool.max_connections
    assert all(crowd(20, lambda _: client.get(key)))


def test_nobody_waits_for_a_connection_for_ever(
    app: Celery, store: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = app.AsyncResult(store(1))
    pool = app.backend.client.connection_pool
    monkeypatch.setattr(pool, "timeout", 0.2)
    # Before 5.3 redis-py asked for the name of a command, and made no use of it.
    command = () if redis.VERSION >= (5, 3) else ("GET",)
    taken = [pool.get_connection(*command) for _ in range(pool.max_connections)]
    with pytest.raises(redis.ConnectionError, match="redis_max_connections"):
        result.forget()
    for connection in taken:
        pool.release(connection)
    result.forget()
    assert result.state == "PENDING"


@pytest.mark.parametrize("native", [False, True])
def test_nobody_waits_for_a_store_for_ever(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE", 0.2)
    call = drainers.fitting().lanes(1, native)
    spawn(call, time.sleep, 1)
    time.sleep(0.1)
    with pytest.raises(TimeoutError, match="None of 1 calls"):
        call(time.sleep, 0)


@pytest.mark.parametrize("native", [False, True])
def test_a_call_within_a_call_needs_no_lane(native: bool) -> None:
    call = drainers.fitting().lanes(1, native)
    assert call(lambda: call(int, "1")) == 1
    assert not call.is_inside()


@green
def test_a_lane_is_free_when_its_native_call_has_ended() -> None:
    """Not when its caller has: a client that bears one call at a time would get two."""
    call = drainers.fitting().lanes(1, native=True)
    begun: list[int] = []
    ended: list[int] = []

    def work() -> None:
        begun.append(1)
        block(0.5)
        ended.append(1)

    for number in range(1, 4):
        caller = spawn(call, work)
        wait_until(lambda: len(begun) == number, "the call")  # noqa: B023
        kill(caller)
        assert call(ended.copy) == [1] * number


@green
def test_a_lane_whose_caller_is_killed_as_it_waits_is_not_lost() -> None:
    call = drainers.fitting().lanes(1, native=True)
    busy = spawn(call, block, 0.3)
    waiting = [spawn(call, block, 0) for _ in range(5)]
    time.sleep(0.05)
    for caller in (*waiting, busy):
        kill(caller)
    assert call(int, "1") == 1
