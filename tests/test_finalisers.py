"""Garbage is collected in the middle of anything, and finalisers of ours change what is there."""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery, uuid

from celery_green_drain.copies import snapshot
from celery_green_drain.pending import InboxWait

from .green import wait_until

#: At which of the objects that are made the collection begins: one of them is the right one.
MOMENTS = range(1, 40)


@pytest.fixture(autouse=True)
def few_objects() -> Iterator[None]:
    """The collector has little to look through, and is fast."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Garbage:
    """What only the collector finds, and what it does in its end."""

    def __init__(self, end: Callable[[], object]) -> None:
        self._end = end
        self._self = self

    def __del__(self) -> None:
        self._end()


@contextmanager
def collection(moment: int, end: Callable[[], object]) -> Iterator[None]:
    """Have *end* called by a finaliser, once that many objects were made."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.disable()
    Garbage(end)
    gc.set_threshold(gc.get_count()[0] + moment)
    gc.enable()
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.collect()


CONTAINERS = {"dict": dict.fromkeys, "deque": deque}


def disturbed(copy: Callable[[Any], Any], make: Callable[[Any], Any]) -> int:
    """How often *copy* fails as what it copies is changed in its middle."""
    failures = 0
    for moment in MOMENTS:
        items = make(range(200))
        with collection(moment, items.clear):
            try:
                copied = copy(items)
            except RuntimeError:
                failures += 1
            else:
                assert list(copied) in ([], list(range(200)))
    return failures


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_snapshot_is_taken_in_one_step(kind: str) -> None:
    assert disturbed(snapshot, CONTAINERS[kind]) == 0


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="garbage is collected in between there")
@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer's own objects move the moment")
@pytest.mark.parametrize("kind", CONTAINERS)
def test_what_else_would_not_be(kind: str) -> None:
    """So the collection hits the spot."""
    assert disturbed(tuple, CONTAINERS[kind]) > 0


def test_one_who_cannot_be_told_keeps_nobody_from_it(
    app: Celery, store: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """Such as one whose thread has ended, and with it the hub that it waited in."""
    task_id, called = uuid(), list[Any]()
    first, second = app.AsyncResult(task_id), app.AsyncResult(task_id)
    dead = InboxWait(app.backend.result_consumer)
    dead.add(app.backend.pending(first))
    dead._signal = None
    first.then(called.append)
    second.then(called.append)
    store(1, task_id=task_id)
    wait_until(lambda: called == [first, second], "both callbacks")
    assert f"Not all who wait for task '{task_id}' could be told." in caplog.text


def test_a_wait_that_is_finalised_while_the_others_are_woken(app: Celery) -> None:
    """As that of a forgotten generator of ``watch()`` or ``iter_native()``."""
    consumer = app.backend.result_consumer
    for moment in MOMENTS:
        result = app.AsyncResult(uuid())
        pending = app.backend.pending(result)
        others, closed = [[InboxWait(consumer) for _ in range(100)] for _ in range(2)]
        for wait in (*others, *closed):
            pending.audience.append(wait)
        meta = {"task_id": result.id, "status": "SUCCESS", "result": 1}

        def close(pending: Any = pending, closed: list[InboxWait] = closed) -> None:
            for wait in closed:
                pending.leave(wait)

        with collection(moment, close):
            pending.resolve(meta, meta.copy)
        assert pending.error is None
        assert [wait.next() for wait in others] == [(pending, None)] * 100


def test_what_goes_wrong_while_telling_is_no_fault_of_the_result(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    result = app.AsyncResult(uuid())
    pending = app.backend.pending(result)
    wait = InboxWait(app.backend.result_consumer)
    pending.audience.append(wait)

    def put(*args: object) -> None:
        raise RuntimeError("not the result's")

    monkeypatch.setattr(InboxWait, "put", put)
    pending.resolve({"task_id": result.id, "status": "SUCCESS", "result": 1}, dict)
    assert pending.error is None
    assert "not the result's" in caplog.text
