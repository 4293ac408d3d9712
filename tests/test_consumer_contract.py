"""The example of "Writing a result consumer" does what each result backend has to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery, uuid
from celery.exceptions import TimeoutError

from celery_green_drain import watch

from .announced import AnnouncedBackend
from .green import DRAINER, crowd, drain_loops, spawn, spawn_get, wait_until


@pytest.fixture
def announced(make: Callable[..., Celery], tmp_path: Path) -> Celery:
    path = f"{AnnouncedBackend.__module__}.{AnnouncedBackend.__qualname__}"
    return make(results=f"{path}://{tmp_path}", result_drainer=DRAINER)


@pytest.fixture
def keep(announced: Celery) -> Callable[..., str]:
    def store(value: object = 42, state: str = "SUCCESS", task_id: str | None = None) -> str:
        task_id = task_id or uuid()
        announced.backend.store_result(task_id, value, state)
        return task_id

    return store


def test_what_is_there_and_what_comes(announced: Celery, keep: Callable[..., str]) -> None:
    assert announced.AsyncResult(keep(1)).get(timeout=20) == 1
    ids = [uuid() for _ in range(20)]

    def get(i: int) -> object:
        if i == len(ids):
            return [keep(j, task_id=task_id) for j, task_id in enumerate(ids)]
        return announced.AsyncResult(ids[i]).get(timeout=20)

    assert crowd(len(ids) + 1, get)[:-1] == list(range(20))
    assert drain_loops() == 1


def test_callbacks_states_and_timeouts(announced: Celery, keep: Callable[..., str]) -> None:
    task_id, calls, seen = uuid(), [], []
    announced.AsyncResult(task_id).then(lambda result: calls.append(result.get()))

    def follow() -> None:
        seen.extend(state.result for state in watch(announced.AsyncResult(task_id), timeout=20))

    spawn(follow)
    keep("half", "PROGRESS", task_id)
    wait_until(lambda: announced.backend.result_consumer.statistics().pending, "the wait")
    with pytest.raises(TimeoutError):
        announced.AsyncResult(uuid()).get(timeout=0.1)
    keep("whole", task_id=task_id)
    wait_until(lambda: calls == ["whole"], "the callback")
    wait_until(lambda: seen and seen[-1] == "whole", "the last state")


def test_stopped_and_started_again(
    announced: Celery, keep: Callable[..., str], tmp_path: Path
) -> None:
    waiter = spawn_get(announced.AsyncResult(uuid()))
    wait_until(lambda: list(tmp_path.glob("*.listener")), "the socket")
    announced.backend.result_consumer.stop()
    wait_until(lambda: waiter, "the end of the wait")
    assert type(waiter[0]).__name__ == "DrainerStopped"
    assert not list(tmp_path.glob("*.listener"))
    assert announced.AsyncResult(keep(2)).get(timeout=20) == 2


def test_a_lost_socket_is_opened_again(announced: Celery, keep: Callable[..., str]) -> None:
    task_id = uuid()
    waiter = spawn_get(announced.AsyncResult(task_id))
    consumer = announced.backend.result_consumer
    wait_until(lambda: consumer.connections, "the socket")

    def lose() -> None:
        consumer.disconnect()

    consumer.in_loop(lose)
    keep(3, task_id=task_id)
    wait_until(lambda: waiter == [3], "the result")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_child_listens_for_itself(
    announced: Celery, keep: Callable[..., str], tmp_path: Path
) -> None:
    assert announced.AsyncResult(keep(1)).get(timeout=20) == 1
    task_id = keep(4)
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        verdict = b"wrong"
        try:
            if announced.AsyncResult(task_id).get(timeout=20) == 4:
                verdict = b"right"
        finally:
            os.write(sender, verdict)
            os._exit(0)
    os.close(sender)
    assert os.read(receiver, 10) == b"right"
    os.close(receiver)
    os.waitpid(pid, 0)
    assert announced.AsyncResult(keep(5)).get(timeout=20) == 5
