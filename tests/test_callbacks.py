"""``then()``: callbacks fire by themselves, beside the drain loop, each on its own."""

from __future__ import annotations

import contextvars
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock, create_autospec

import celery
import pytest
from celery import Celery, chain, group, uuid
from celery.exceptions import TimeoutError
from celery.result import AsyncResult, GroupResult, ResultSet
from vine import barrier, promise

from celery_green_drain import figures
from celery_green_drain.signals import callback_raised

from .green import GREEN, MODE, crowd, green_timeout, size, spawn_get, wait_until
from .servers import RedisServer

pytestmark = pytest.mark.kinds("redis", "rpc, rabbitmq")

#: For what looks into Redis, or what messages cannot do, in Celery either.
stored = pytest.mark.kinds("redis")

forgets = pytest.mark.skipif(celery.__version__ < "5.7", reason="Celery did not tell before 5.7")

current: contextvars.ContextVar[str] = contextvars.ContextVar("current")


def test_fires_without_anybody_waiting(app: Celery, worker: object) -> None:
    calls: list[int] = []
    app.tasks["add"].delay(2, 3).then(lambda result: calls.append(result.get()))
    gc.collect()  # the result is kept, though nobody here keeps it
    wait_until(lambda: calls == [5], "the callback")


def test_fires_for_a_task_that_finished_before(app: Celery, store: Callable[..., str]) -> None:
    calls: list[object] = []
    app.AsyncResult(store(7)).then(lambda result: calls.append(result.get()))
    wait_until(lambda: calls == [7], "the callback")


def test_fires_for_a_result_that_is_ready_already(app: Celery, store: Callable[..., str]) -> None:
    result = app.AsyncResult(store(7))
    wait_until(result.ready, "the result")  # found out by itself, with nothing pending
    calls: list[object] = []
    result.then(calls.append)
    result.then(calls.append)
    wait_until(lambda: calls == [result, result], "both callbacks")


def test_fires_where_another_finds_out(app: Celery, store: Callable[..., str]) -> None:
    """The result may be seen by a poll first; it fires once all the same."""
    result = app.AsyncResult(uuid())
    calls: list[object] = []
    result.then(calls.append)
    store(1, task_id=result.id)
    wait_until(result.ready, "the result")
    wait_until(lambda: calls, "the callback")
    assert result.get(timeout=5) == 1
    assert calls == [result]


def test_each_fires_once(app: Celery, store: Callable[..., str]) -> None:
    count = size(2000, 200)
    calls: list[str] = []
    ids = [uuid() for _ in range(count)]
    for task_id in ids:
        app.AsyncResult(task_id).then(lambda result: calls.append(result.id))
    for task_id in ids:
        store(task_id=task_id)
        store(task_id=task_id)  # what comes twice is handed over once
    wait_until(lambda: len(calls) >= count, "all callbacks")
    assert sorted(calls) == sorted(ids)


def test_chained_callbacks_get_the_value_of_the_one_before(
    app: Celery, store: Callable[..., str]
) -> None:
    calls: list[object] = []
    app.AsyncResult(store(2)).then(lambda result: result.get() * 10).then(calls.append)
    wait_until(lambda: calls == [20], "the second callback")


def test_chained_to_one_that_has_been_called(app: Celery, store: Callable[..., str]) -> None:
    calls: list[object] = []
    first = app.AsyncResult(store(2)).then(lambda result: result.get() * 10)
    wait_until(lambda: first.ready, "the first callback")
    assert first.value == ((20,), {})
    first.then(calls.append)
    first.then(lambda value: value + 1).then(calls.append)
    assert calls == [20, 21]


def test_chained_while_it_is_called(app: Celery, store: Callable[..., str]) -> None:
    calls: list[object] = []
    chained: list[Any] = []

    def callback(result: Any) -> object:
        chained[0].then(calls.append)
        return result.get()

    result = app.AsyncResult(uuid())
    chained.append(result.then(callback))
    store(3, task_id=result.id)
    wait_until(lambda: calls == [3], "what it has chained to itself")


def test_one_of_two_is_cancelled(app: Celery, store: Callable[..., str]) -> None:
    calls: list[object] = []
    result = app.AsyncResult(uuid())
    first, second = result.then(calls.append), result.then(calls.append)
    further = first.then(calls.append)
    first.cancel()
    store(task_id=result.id)
    wait_until(lambda: second.ready, "the other one")
    assert calls == [result]
    assert (first.cancelled, further.cancelled, second.cancelled) == (True, True, False)


def test_chained_to_one_that_raises(app: Celery, store: Callable[..., str]) -> None:
    early: list[BaseException] = []
    late: list[BaseException] = []
    result = app.AsyncResult(uuid())
    chained = result.then(lambda _: 1 / 0)
    chained.then(print, early.append)
    store(1, task_id=result.id)
    wait_until(lambda: early, "the error")
    assert chained.failed
    chained.then(print, late.append)
    assert early == late == [chained.reason]
    assert isinstance(chained.reason, ZeroDivisionError)


def test_on_error_gets_what_its_callback_raises(app: Celery, store: Callable[..., str]) -> None:
    bad: list[BaseException] = []
    app.AsyncResult(store(1)).then(lambda _: 1 / 0, bad.append)
    wait_until(lambda: bad, "the error")
    assert isinstance(bad[0], ZeroDivisionError)


def test_chained_to_no_callback(app: Celery, store: Callable[..., str]) -> None:
    calls: list[object] = []
    result = app.AsyncResult(store(1))
    result.then(None).then(calls.append)
    wait_until(lambda: calls == [result], "the result itself")


def test_what_is_no_callback(app: Celery) -> None:
    result = app.AsyncResult(uuid())
    with pytest.raises(TypeError, match="callback = 5: expected a function"):
        result.then(5)
    assert app.backend.result_consumer.statistics().pending == 0


def test_a_coroutine_function_is_refused(app: Celery) -> None:
    async def call(result: object) -> None: ...

    with pytest.raises(TypeError, match=r"callback = .* coroutine function"):
        app.AsyncResult(uuid()).then(call)
    with pytest.raises(TypeError, match=r"on_error = .* coroutine function"):
        app.AsyncResult(uuid()).then(print, on_error=call)


def test_a_mock_of_a_function(app: Celery, store: Callable[..., str]) -> None:
    def call(result: object) -> None: ...

    for mock in (Mock(), Mock(spec=call), create_autospec(call)):
        app.AsyncResult(store(1)).then(mock)
        wait_until(lambda mock=mock: mock.called, "the mock")


def test_a_promise_as_the_callback(app: Celery, store: Callable[..., str]) -> None:
    calls: list[object] = []
    mine = promise(calls.append)
    result = app.AsyncResult(store(2))
    assert result.then(mine) is mine
    wait_until(lambda: calls == [result], "the promise")


def test_what_was_chained_before_celery_asked_us(app: Celery, store: Callable[..., str]) -> None:
    result = app.AsyncResult(store(2))
    calls: list[object] = []
    result.on_ready.then(calls.append)
    result.get(timeout=5)
    wait_until(lambda: calls == [result], "the callback")
    assert len(result.on_ready.listeners) == 0


@pytest.mark.parametrize("ready", [False, True])
def test_a_promise_of_ones_own_is_called(
    ready: bool, app: Celery, store: Callable[..., str]
) -> None:
    """In place of that which a result begins with, and by a subclass that has another."""
    calls: list[object] = []

    class Result(AsyncResult):
        def _on_fulfilled(self, result: Any) -> Any:
            calls.append(self.id)
            return super()._on_fulfilled(result)

    ids = [uuid(), uuid()]
    mine, theirs = app.AsyncResult(ids[0]), Result(ids[1], app=app)
    mine.on_ready = promise(lambda result: calls.append(result.id))
    waits = [] if ready else [spawn_get(result) for result in (mine, theirs)]
    for number, task_id in enumerate(ids):
        store(number, task_id=task_id)
    if ready:
        waits = [spawn_get(result) for result in (mine, theirs)]
    wait_until(lambda: waits == [[0], [1]], "both results")
    wait_until(lambda: sorted(map(str, calls)) == sorted(ids), "both calls")


def test_what_is_chained_to_a_promise_of_ones_own_is_asked_for(
    app: Celery, store: Callable[..., str]
) -> None:
    calls: list[str] = []
    result = app.AsyncResult(uuid())
    result.on_ready = promise(lambda _: calls.append("mine"))
    result.on_ready.then(lambda _: calls.append("chained"))
    app.backend.add_pending_result(result)
    store(task_id=result.id)
    wait_until(lambda: calls == ["mine", "chained"], "both calls")


def test_a_promise_of_ones_own_asks_for_nothing(app: Celery) -> None:
    result = app.AsyncResult(uuid())
    result.on_ready = promise(print)
    with pytest.raises(TimeoutError):
        result.get(timeout=0.05)
    wait_until(lambda: not app.backend.result_consumer.statistics().pending, "an empty table")


def test_cancelled(app: Celery, store: Callable[..., str]) -> None:
    result = app.AsyncResult(uuid())
    calls: list[object] = []
    result.then(calls.append)
    assert len(result.on_ready.listeners) == 1
    result.on_ready.cancel()
    store(task_id=result.id)
    assert result.get(timeout=5) == 42
    assert calls == []


def test_on_error_gets_the_exception(app: Celery, store: Callable[..., str]) -> None:
    good: list[object] = []
    bad: list[BaseException] = []
    app.AsyncResult(store(ValueError("no"), "FAILURE")).then(good.append, bad.append)
    app.AsyncResult(store(1)).then(good.append, bad.append)
    wait_until(lambda: good and bad, "both")
    assert len(good) == len(bad) == 1
    assert isinstance(bad[0], ValueError)


def test_on_error_of_chained_callbacks(app: Celery, store: Callable[..., str]) -> None:
    bad: list[BaseException] = []
    result = app.AsyncResult(store(ValueError("no"), "FAILURE"))
    result.then(print, bad.append).then(print, bad.append)
    wait_until(lambda: len(bad) == 2, "both")


def test_a_task_that_ignores_its_result(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    result = app.tasks["ignored"].delay()
    result.then(print)
    assert f"Task {result.id!r} ignores its result" in caplog.text
    assert app.backend.result_consumer.statistics().drainer is None


def test_a_failed_task_without_on_error_calls_back(app: Celery, store: Callable[..., str]) -> None:
    calls: list[object] = []
    result = app.AsyncResult(store(ValueError("no"), "FAILURE"))
    result.then(calls.append)
    wait_until(lambda: calls == [result], "the callback")
    assert result.failed()


@stored
def test_weak_does_not_keep_the_result(
    app: Celery, store: Callable[..., str], results: RedisServer
) -> None:
    calls: list[object] = []
    result = app.AsyncResult(uuid())
    result.then(calls.append, weak=True)
    wait_until(results.subscriptions, "the subscription")
    del result
    gc.collect()
    wait_until(lambda: not results.subscriptions(), "the end of the subscription")
    kept = app.AsyncResult(uuid())
    kept.then(calls.append, weak=True)
    store(task_id=kept.id)
    wait_until(lambda: calls == [kept], "the callback of the one that was kept")


@pytest.mark.parametrize("empty", [ResultSet, partial(GroupResult, "g")])
def test_a_group_that_is_empty_at_first(
    app: Celery, worker: object, empty: Callable[..., ResultSet]
) -> None:
    """As one that is filled in a loop."""
    calls: list[object] = []
    results = empty([], app=app)
    results.then(calls.append)
    for number in range(3):
        results.add(app.tasks["add"].delay(number, 1))
    assert results.get(timeout=20) == [1, 2, 3]
    wait_until(lambda: calls == [results], "the callback")


@stored
@forgets
def test_forgotten_calls_nothing(
    app: Celery, store: Callable[..., str], results: RedisServer
) -> None:
    calls: list[object] = []
    result = app.AsyncResult(uuid())
    result.then(calls.append)
    wait_until(results.subscriptions, "the subscription")
    result.forget()
    wait_until(lambda: not results.subscriptions(), "the end of the subscription")
    store(task_id=result.id)
    assert result.get(timeout=5) == 42
    assert calls == []


@stored
@pytest.mark.parametrize(
    "dismiss",
    [
        pytest.param(AsyncResult.forget, marks=forgets),
        lambda result: result.on_ready.cancel(),
    ],
    ids=["forget", "cancel"],
)
def test_dismissed_while_somebody_waits(
    app: Celery, store: Callable[..., str], dismiss: Callable[[AsyncResult], None]
) -> None:
    """It counts no longer, or the end of the process would wait for it."""
    calls: list[object] = []
    result = app.AsyncResult(uuid())
    outcome = spawn_get(result)
    result.then(calls.append)
    statistics = app.backend.result_consumer.statistics
    wait_until(lambda: statistics().callbacks_pending == 1, "the callback")
    dismiss(result)
    wait_until(lambda: statistics().callbacks_pending == 0, "the end of the callback")
    store(task_id=result.id)
    wait_until(lambda: outcome == [42], "the result")
    assert calls == []


def test_one_that_raises_disturbs_nobody(
    app: Celery, store: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[object] = []

    def refuse(result: object) -> None:
        raise LookupError("bad callback")

    task_id = uuid()
    result = app.AsyncResult(task_id)
    result.then(refuse)
    result.then(calls.append)
    with caplog.at_level(logging.ERROR):
        store(task_id=task_id)
        wait_until(lambda: calls, "the other callback")
        wait_until(lambda: caplog.records, "the log line")
    assert task_id in caplog.text
    assert "bad callback" in caplog.text
    assert app.AsyncResult(store(1)).get(timeout=5) == 1


def test_one_that_calls_exit_ends_nothing(
    app: Celery, store: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """As some libraries do. Under green threads that would end the main greenlet."""
    calls: list[object] = []
    task_id = uuid()
    result = app.AsyncResult(task_id)
    result.then(lambda _: sys.exit(3))
    result.then(calls.append)
    GroupResult(uuid(), [result], app=app).then(lambda _: sys.exit(4))
    store(task_id=task_id)
    wait_until(lambda: calls, "the other callback")
    wait_until(lambda: caplog.text.count("SystemExit") == 2, "the log lines")
    assert f"A callback of task {task_id!r} raised." in caplog.text
    assert app.AsyncResult(store(1)).get(timeout=20) == 1


@pytest.mark.skipif(not GREEN, reason="green libraries have such timeouts")
def test_one_that_a_green_timeout_ends(
    app: Celery, store: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """It has raised like any other, though that is no ``Exception``."""
    task_id = uuid()
    raised: list[str] = []

    def note(sender: object, name: str, **kwargs: object) -> None:
        raised.append(name)

    def dawdle(result: object) -> None:
        with green_timeout(0.05, True):
            time.sleep(60)

    callback_raised.connect(note)
    try:
        app.AsyncResult(task_id).then(dawdle)
        store(task_id=task_id)
        wait_until(lambda: raised == [f"task {task_id!r}"], "the signal")
    finally:
        callback_raised.disconnect(note)
    assert f"A callback of task {task_id!r} raised." in caplog.text
    statistics = app.backend.result_consumer.statistics()
    assert (statistics.callbacks_run, statistics.callbacks_raised) == (1, 1)


def test_one_that_sleeps_delays_nobody(app: Celery, store: Callable[..., str]) -> None:
    go_on = threading.Event()
    calls: list[object] = []
    task_id = uuid()
    result = app.AsyncResult(task_id)
    result.then(lambda _: go_on.wait(30))
    result.then(calls.append)
    store(task_id=task_id)
    wait_until(lambda: calls, "the other callback")
    assert app.AsyncResult(store(1)).get(timeout=5) == 1
    go_on.set()


def test_its_error_is_logged_in_the_context_of_then(
    app: Celery, store: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """What collects errors, such as Sentry, finds the request there that it belongs to."""
    seen: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        seen.append(current.get("nobody's"))
        return True

    logger = logging.getLogger("celery_green_drain.promises")
    logger.addFilter(note)
    try:
        token = current.set("request 7")
        app.AsyncResult(store(1)).then(lambda _: 1 / 0)
        current.reset(token)
        wait_until(lambda: "ZeroDivisionError" in caplog.text, "the line in the log")
    finally:
        logger.removeFilter(note)
    assert seen == ["request 7"]


def test_one_may_wait_for_another_task(app: Celery, worker: object) -> None:
    add = app.tasks["add"]
    values: list[int] = []
    add.delay(1, 1).then(lambda result: values.append(add.delay(result.get(), 1).get(timeout=20)))
    wait_until(lambda: values == [3], "the callback's own task")


def test_the_context_of_then_is_that_of_the_callback(
    app: Celery, store: Callable[..., str]
) -> None:
    seen: list[tuple[int, str]] = []

    def ask(i: int) -> None:
        current.set(f"request {i}")
        app.AsyncResult(store(i)).then(lambda result: seen.append((result.get(), current.get())))

    crowd(5, ask)
    wait_until(lambda: len(seen) == 5, "all callbacks")
    assert sorted(seen) == [(i, f"request {i}") for i in range(5)]


@stored
def test_old_django_connections_are_closed(
    app: Celery, store: Callable[..., str], django: Path
) -> None:
    from django import db

    used: list[Any] = []

    def use_database(result: object) -> None:
        with db.connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        assert db.connections["default"].connection is not None
        used.append(db.connections["default"])

    app.AsyncResult(store()).then(use_database)
    wait_until(lambda: used and used[0].connection is None, "the connection to be closed")


# -- groups


def test_group(app: Celery, worker: object) -> None:
    calls: list[object] = []
    add = app.tasks["add"]
    group(add.s(i, i) for i in range(5))().then(lambda result: calls.append(result.get()))
    gc.collect()  # nobody here keeps the group
    wait_until(lambda: calls == [[0, 2, 4, 6, 8]], "the callback of the group")


def test_group_of_finished_tasks(app: Celery, store: Callable[..., str]) -> None:
    members = [app.AsyncResult(store(i)) for i in range(3)]
    wait_until(lambda: all(member.ready() for member in members), "the results")
    calls: list[object] = []
    ResultSet(members, app=app).then(lambda result: calls.append(result.get()))
    wait_until(lambda: calls == [[0, 1, 2]], "the callback")


def test_group_callbacks_are_isolated_as_well(
    app: Celery, store: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    result = GroupResult(uuid(), [app.AsyncResult(uuid()) for _ in range(3)], app=app)
    calls: list[object] = []
    go_on = threading.Event()

    def refuse(_: object) -> None:
        raise LookupError("bad callback")

    result.then(refuse)
    result.then(lambda _: go_on.wait(30))
    result.then(calls.append)
    assert len(result.on_ready.listeners) == 3
    for member in result:
        store(task_id=member.id)
    wait_until(lambda: calls == [result], "the last callback")
    go_on.set()
    wait_until(lambda: result.id in caplog.text, "the log line")


def test_group_on_error_gets_the_exception_of_a_member(
    app: Celery, store: Callable[..., str]
) -> None:
    members = [app.AsyncResult(store(1)), app.AsyncResult(store(ValueError("no"), "FAILURE"))]
    good: list[object] = []
    bad: list[BaseException] = []
    ResultSet(members, app=app).then(good.append, bad.append)
    wait_until(lambda: bad, "on_error")
    assert isinstance(bad[0], ValueError)
    assert not good


def test_nested_groups(app: Celery, store: Callable[..., str]) -> None:
    leaves = [[app.AsyncResult(uuid()) for _ in range(2)] for _ in range(2)]
    outer = GroupResult(uuid(), [GroupResult(uuid(), two, app=app) for two in leaves], app=app)
    calls: list[object] = []
    outer.then(calls.append)
    for two in leaves:
        for leaf in two:
            assert not calls
            store(task_id=leaf.id)
    wait_until(lambda: calls == [outer], "the callback of the outer group")


@pytest.mark.skipif(celery.__version__ < "5.7", reason="Celery did not wait for it before 5.7")
def test_a_member_added_to_a_group_that_was_ready(app: Celery, store: Callable[..., str]) -> None:
    result = ResultSet([app.AsyncResult(store(1))], app=app)
    calls: list[int] = []
    result.then(lambda _: calls.append(1))
    wait_until(lambda: calls == [1], "the first callback")
    late = app.AsyncResult(uuid())
    result.add(late)
    result.then(lambda _: calls.append(2))
    store(task_id=late.id)
    wait_until(lambda: calls == [1, 2], "the second callback")


def test_a_barrier_of_ones_own(app: Celery, store: Callable[..., str]) -> None:
    members = [app.AsyncResult(uuid()) for _ in range(3)]
    calls: list[str] = []
    mine = barrier()
    mine.then(lambda: calls.append("early"))  # before there is any member
    for member in members:
        mine.add(member)
    mine.then(lambda: calls.append("late"))
    last = app.AsyncResult(uuid())
    mine.add(last)  # when it is waited for already
    mine.finalize()
    for member in [*members, last]:
        store(task_id=member.id)
    wait_until(lambda: sorted(calls) == ["early", "late"], "the barrier")
    mine.then(lambda: calls.append("after"))
    wait_until(lambda: calls[-1] == "after", "what was chained afterwards")


def test_a_callback_of_a_barrier_delays_nobody(app: Celery, store: Callable[..., str]) -> None:
    go_on = threading.Event()
    mine = barrier([app.AsyncResult(store(1)), app.AsyncResult(store(2))])
    mine.then(lambda: go_on.wait(30))
    assert app.AsyncResult(store(3)).get(timeout=5) == 3
    go_on.set()


def test_groups_of_ready_members_all_fire(app: Celery, store: Callable[..., str]) -> None:
    """Whichever thread is faster: the one that makes the group, or the drainer's."""
    calls: list[int] = []
    groups = []
    for i in range(100):
        members = [app.AsyncResult(store(i)) for _ in range(3)]
        for member in members:
            wait_until(member.ready, "the result")
        groups.append(GroupResult(uuid(), members, app=app))
        groups[-1].then(lambda _, i=i: calls.append(i))
    wait_until(lambda: sorted(calls) == list(range(100)), "all callbacks, once each")


@stored
def test_group_on_error_gets_what_made_a_member_unreadable(
    app: Celery, store: Callable[..., str]
) -> None:
    garbage = uuid()
    app.backend.client.set(app.backend.get_key_for_task(garbage), b"{")
    result = GroupResult(uuid(), [app.AsyncResult(garbage), app.AsyncResult(store(1))], app=app)
    bad: list[BaseException] = []
    result.then(print, bad.append)
    wait_until(lambda: bad, "on_error")
    assert "Expecting property name" in str(bad[0])


def test_a_forgotten_member_that_comes_all_the_same(app: Celery, store: Callable[..., str]) -> None:
    members = [app.AsyncResult(uuid()), app.AsyncResult(store(1))]
    calls: list[object] = []
    result = ResultSet(members, app=app)
    result.then(calls.append)
    members[0].forget()
    store(2, task_id=members[0].id)
    assert members[0].get(timeout=5) == 2
    wait_until(lambda: calls == [result], "the callback of the group")


def test_groups_that_nobody_reads_leave_nothing(app: Celery) -> None:
    for _ in range(10):
        GroupResult(uuid(), [app.AsyncResult(uuid()) for _ in range(10)], app=app)
    gc.collect()
    assert app.backend.result_consumer.statistics().drainer is None  # nothing was asked for


def test_a_cancelled_barrier(app: Celery, store: Callable[..., str]) -> None:
    member = app.AsyncResult(uuid())
    calls: list[int] = []
    mine = barrier([member])
    mine.then(lambda: calls.append(1))
    assert mine.p.listeners
    mine.cancel()
    store(task_id=member.id)
    assert member.get(timeout=5) == 42
    assert calls == []


@stored
def test_chain_of_a_group(app: Celery, worker: object) -> None:
    add, total = app.tasks["add"], app.tasks["total"]
    calls: list[int] = []
    result = chain(group(add.s(1, 1), add.s(2, 2)), total.s())()
    result.then(lambda result: calls.append(result.get()))
    wait_until(lambda: calls == [6], "the callback")


def test_a_bare_group_asks_for_nothing(app: Celery, worker: object, results: RedisServer) -> None:
    """Tells when Celery's result sets or vine's barriers no longer are as they were."""
    results.reset_calls()
    result = group(app.tasks["add"].s(i, i) for i in range(20))()
    wait_until(result.ready, "the group")
    assert results.calls("subscribe") == 0


def test_the_callbacks_of_a_slow_reader_wait_for_nobody(
    app: Celery, store: Callable[..., str]
) -> None:
    """A thousand callbacks that sleep at once."""
    count = size(1000, 100)
    calls: list[int] = []
    begun = time.monotonic()

    def sleepy(_: object) -> None:
        time.sleep(0.5)
        calls.append(1)

    for _ in range(count):
        app.AsyncResult(store()).then(sleepy)
    wait_until(lambda: len(calls) == count, "all callbacks", timeout=60)
    assert time.monotonic() - begun < 0.5 * count / 4


# -- what else they may do


def test_one_may_start_the_next_again_and_again(app: Celery, store: Callable[..., str]) -> None:
    """A thousand deep: each begins anew, so no stack grows."""
    depth = 1000
    ids = [store(i) for i in range(10)]
    over = threading.Event()

    def again(result: Any, left: int = depth) -> None:
        if left:
            app.AsyncResult(ids[left % 10]).then(lambda result: again(result, left - 1))
        else:
            over.set()

    app.AsyncResult(ids[0]).then(again)
    assert over.wait(60)


def test_one_that_recurses_without_end(
    app: Celery, store: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    def recurse(result: Any) -> None:
        recurse(result)

    app.AsyncResult(store(1)).then(recurse)
    wait_until(lambda: "RecursionError" in caplog.text, "the log line")
    assert app.AsyncResult(store(1)).get(timeout=20) == 1


@pytest.mark.skipif(not GREEN, reason="a thread cannot be killed")
def test_one_that_kills_its_own_greenlet(app: Celery, store: Callable[..., str]) -> None:
    import greenlet

    calls: list[object] = []

    def end(result: Any) -> None:
        calls.append(result)
        raise greenlet.GreenletExit

    def end_itself(result: Any) -> None:
        calls.append(result)
        if MODE == "gevent":
            import gevent

            gevent.getcurrent().kill()
        else:
            import eventlet

            eventlet.kill(eventlet.getcurrent())

    result = app.AsyncResult(store(1))
    result.then(end)
    result.then(end_itself)
    result.then(calls.append)
    wait_until(lambda: calls == [result] * 3, "all three")
    assert app.AsyncResult(store(2)).get(timeout=20) == 2
    assert app.backend.result_consumer.statistics().connects == 1


@stored
def test_one_that_forks(app: Celery, store: Callable[..., str], results: RedisServer) -> None:
    """The child ends there; the parent's connections are as they were."""
    ended: list[int] = []

    def fork(result: Any) -> None:
        child = os.fork()
        if child == 0:
            fresh = app.backend.result_consumer.statistics()
            os._exit(0 if (fresh.drainer, fresh.pending) == (None, 0) else 1)
        ended.append(os.waitpid(child, 0)[1])

    later = app.AsyncResult(uuid())
    calls: list[object] = []
    later.then(calls.append)
    app.AsyncResult(store(1)).then(fork)
    wait_until(lambda: ended, "the child's end")
    assert ended == [0]
    store(2, task_id=later.id)
    wait_until(lambda: calls == [later], "the other callback")
    assert app.backend.result_consumer.statistics().connects == 1


@stored
def test_one_behind_one_that_forks(app: Celery, store: Callable[..., str], tmp_path: Path) -> None:
    """Its greenlet is on its way in the child as well, and calls it in the parent alone."""
    ended: list[int] = []

    def note(_: Any) -> None:
        (tmp_path / str(os.getpid())).touch()

    def fork(_: Any) -> None:
        child = os.fork()
        if child == 0:
            time.sleep(0.2)  # others run
            os._exit(0)
        ended.append(os.waitpid(child, 0)[1])

    result = app.AsyncResult(uuid())
    result.then(fork)
    result.then(note)
    store(task_id=result.id)
    wait_until(lambda: ended, "the child's end")
    wait_until(lambda: list(tmp_path.iterdir()), "the other callback")
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]


def test_a_thousand_that_never_end(
    app: Celery,
    store: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    count = size(1000, 200)
    monkeypatch.setattr(figures, "MANY", count - 20)
    go_on = threading.Event()
    begun: list[int] = []
    task_id = store(1)
    for i in range(count):
        app.AsyncResult(task_id).then(lambda _, i=i: (begun.append(i), go_on.wait(60)))
    wait_until(lambda: len(begun) == count, "all of them to begin")
    assert app.AsyncResult(store(2)).get(timeout=20) == 2
    assert app.backend.result_consumer.statistics().callbacks_running == count
    assert caplog.text.count("callbacks run at once") == 1
    go_on.set()
