"""Callbacks share greenlets, and nobody notices."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, uuid

from celery_green_drain.drainers.callbacks import SHIFT, CallbackRunner

from .green import GREEN, kill, spawn, wait_until

pytestmark = pytest.mark.skipif(not GREEN, reason="native threads run each call in one of its own")

MANY = 5 * SHIFT


@pytest.fixture
def spawned() -> list[Any]:
    """The greenlets that the runner has started."""
    return []


@pytest.fixture
def runner(spawned: list[Any]) -> CallbackRunner:
    def start(function: Callable[..., object]) -> Any:
        spawned.append(spawn(function))
        return spawned[-1]

    return CallbackRunner(start)


def test_what_does_not_wait_shares_a_greenlet(runner: CallbackRunner, spawned: list[Any]) -> None:
    calls: list[int] = []
    for number in range(MANY):
        runner.call(calls.append, number)
    wait_until(lambda: len(calls) == MANY, "all calls")
    assert calls == list(range(MANY))
    assert len(spawned) <= MANY / SHIFT + 1


def test_what_waits_has_its_greenlet_alone(runner: CallbackRunner, spawned: list[Any]) -> None:
    over = threading.Event()
    calls: list[int] = []
    for number in range(MANY):
        runner.call(over.wait)
        runner.call(calls.append, number)
    wait_until(lambda: len(calls) == MANY, "all that do not wait")
    over.set()
    wait_until(lambda: all(greenlet.dead for greenlet in spawned), "the end of the others")


def test_what_raises_is_logged_and_ends_nobody(
    runner: CallbackRunner, caplog: pytest.LogCaptureFixture
) -> None:
    """A green library hands it to whoever has resumed the greenlet, perhaps to its hub."""
    calls: list[int] = []

    def fail() -> None:
        time.sleep(0)
        raise EOFError("on purpose")

    runner.call(fail)
    runner.call(calls.append, 1)
    wait_until(lambda: calls and "on purpose" in caplog.text, "the call and the line in the log")
    wait_until(lambda: not len(runner), "the end of both")


def test_what_is_called_while_all_wait(runner: CallbackRunner) -> None:
    begun, over = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        over.wait()

    runner.call(wait)
    begun.wait()
    calls: list[int] = []
    runner.call(calls.append, 1)
    wait_until(lambda: calls == [1], "the call")
    over.set()


def test_one_that_ends_its_greenlet(runner: CallbackRunner) -> None:
    from greenlet import GreenletExit

    def leave() -> None:
        raise GreenletExit

    calls: list[int] = []
    for number in range(MANY):
        runner.call(leave)
        runner.call(calls.append, number)
    wait_until(lambda: len(calls) == MANY, "the calls after those")


def test_a_greenlet_that_is_killed_before_it_runs(
    runner: CallbackRunner, spawned: list[Any]
) -> None:
    calls: list[int] = []
    runner.call(calls.append, 1)
    kill(spawned[0])
    wait_until(lambda: calls == [1], "the call, though no other one comes")
    for _ in range(3):
        runner.call(calls.append, 2)
        kill(spawned[-1])
        kill(spawned[-1])  # what took its place
    wait_until(lambda: calls == [1, 2, 2, 2], "all calls")


def test_a_call_calls(runner: CallbackRunner, spawned: list[Any]) -> None:
    calls: list[int] = []

    def call(left: int) -> None:
        calls.append(left)
        if left:
            runner.call(call, left - 1)

    runner.call(call, MANY)
    wait_until(lambda: len(calls) == MANY + 1, "the last call")


def test_callbacks_share_greenlets(app: Celery) -> None:
    greenlets: list[int] = []
    ids = [uuid() for _ in range(MANY)]
    for task_id in ids:
        app.AsyncResult(task_id).then(lambda _: greenlets.append(threading.get_ident()))
    consumer = app.backend.result_consumer
    wait_until(lambda: consumer.statistics().pending == MANY, "all waits")

    def deliver() -> None:
        for task_id in ids:
            consumer.deliver(task_id, lambda: {"status": "SUCCESS", "result": 1})

    consumer.in_loop(deliver)
    wait_until(lambda: len(greenlets) == MANY, "all callbacks")
    assert len(set(greenlets)) <= MANY / SHIFT + 1
