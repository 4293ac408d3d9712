"""``watch()``: every state as it comes, for as many as want to see it."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

import pytest
from celery import Celery, chain, group, uuid
from celery.exceptions import ImproperlyConfigured, TaskRevokedError, TimeoutError
from celery.result import EagerResult, GroupResult, ResultSet, allow_join_result

import celery_green_drain
from celery_green_drain import DrainerStopped, State, pending, watch

from .conftest import KINDS
from .green import GREEN, crowd, in_native_thread, kill, size, spawn_get, wait_until
from .servers import RedisServer
from .watcher import Watcher

Store = Callable[..., str]

every_kind = pytest.mark.kinds(*KINDS)


def pairs(seen: list[State]) -> list[tuple[str, Any]]:
    return [(state.status, state.result) for state in seen]


def step(store: Store, task_id: str, number: Any) -> None:
    """Report a step, as the worker does."""
    store({"step": number}, "PROGRESS", task_id)


def nothing_left(app: Celery, results: RedisServer) -> None:
    wait_until(lambda: not results.subscriptions(), "the end of all subscriptions")
    wait_until(lambda: not app.backend.result_consumer.statistics().pending, "an empty table")


# -- one task


@every_kind
def test_every_state_of_a_task(app: Celery, results: RedisServer) -> None:
    # Late enough to be watched by then: a state that was replaced before is gone.
    result = app.tasks["progress"].apply_async((4, 0.6), countdown=1)
    *steps, last = watch(result, timeout=30)
    # The first of them comes at once after STARTED, which it may replace.
    assert pairs(steps)[-3:] == [("PROGRESS", {"step": number}) for number in range(1, 4)]
    assert last == State(result.id, "SUCCESS", 4, None, done=1, total=1)
    assert (last.ready, last.last) == (True, True)
    assert not any(state.ready or state.last or state.done for state in steps)
    assert result.get(timeout=0) == 4
    nothing_left(app, results)


@every_kind
def test_the_newest_known_state_comes_first(app: Celery, store: Store) -> None:
    task_id = uuid()
    step(store, task_id, 1)
    step(store, task_id, 2)
    wait_until(lambda: app.AsyncResult(task_id).info == {"step": 2}, "both, where they are sent")
    first = Watcher(app.AsyncResult(task_id))
    wait_until(lambda: first.seen, "the state in the store")
    second = Watcher(app.AsyncResult(task_id))  # its task is subscribed to already
    wait_until(lambda: second.seen, "the state for the second")
    store("done", task_id=task_id)
    expected = [("PROGRESS", {"step": 2}), ("SUCCESS", "done")]
    assert pairs(first.wait()) == pairs(second.wait()) == expected


@every_kind
def test_nothing_is_yielded_for_a_task_that_nothing_is_known_of(app: Celery) -> None:
    with pytest.raises(TimeoutError):
        next(watch(app.AsyncResult(uuid()), timeout=0.2))


def test_ready_at_once(app: Celery, store: Store, results: RedisServer) -> None:
    result = app.AsyncResult(store(7))
    assert pairs(list(watch(result, timeout=10))) == [("SUCCESS", 7)]
    nothing_left(app, results)
    results.reset_calls()
    assert pairs(list(watch(result, timeout=10))) == [("SUCCESS", 7)]
    assert results.calls("subscribe") == results.calls("mget") == 0


@every_kind
def test_a_task_that_fails(app: Celery) -> None:
    last = list(watch(app.tasks["fail"].delay("bad luck"), timeout=20))[-1]
    assert last.status == "FAILURE"
    assert isinstance(last.result, ValueError)
    assert "bad luck" in str(last.traceback)
    assert last.last


@every_kind
def test_a_task_that_is_revoked(app: Celery) -> None:
    result = app.tasks["add"].apply_async((1, 1), countdown=2)
    watcher = Watcher(result)
    result.revoke()
    (revoked,) = watcher.wait()
    assert revoked.status == "REVOKED"
    assert isinstance(revoked.result, TaskRevokedError)


@every_kind
def test_a_chain_whose_first_task_fails(app: Celery) -> None:
    add, fail = app.tasks["add"], app.tasks["fail"]
    result = chain(fail.si("bad luck"), add.si(1, 1))()
    assert list(watch(result, timeout=20))[-1].status == "FAILURE"


def test_a_result_that_cannot_be_read_is_a_failure(app: Celery, store: Store, caplog: Any) -> None:
    broken, fine = uuid(), uuid()
    watcher, other = Watcher(app.AsyncResult(broken)), Watcher(app.AsyncResult(fine))
    client, key = app.backend.client, app.backend.get_key_for_task(broken)
    client.set(key, b"{no json")
    client.publish(key, b"{no json")
    store(1, task_id=fine)
    (state,) = watcher.wait()
    assert state.status == "FAILURE"
    assert isinstance(state.result, Exception)
    assert pairs(other.wait()) == [("SUCCESS", 1)]
    assert broken in caplog.text


def test_the_end_is_found_out_by_another(app: Celery, store: Store) -> None:
    result = app.AsyncResult(uuid())
    watcher = Watcher(result)
    key = app.backend.get_key_for_task(result.id)
    meta = {"status": "SUCCESS", "result": 3, "task_id": result.id}
    app.backend.client.set(key, app.backend.encode(meta))  # without a message
    wait_until(result.ready, "a look at the store")
    assert pairs(watcher.wait()) == [("SUCCESS", 3)]


@every_kind
def test_forgotten_before_it_is_read(app: Celery, store: Store) -> None:
    """What has arrived is yielded, though the result knows nothing of it any more."""
    result = app.AsyncResult(uuid())
    states = watch(result, timeout=20)
    step(store, result.id, 1)
    assert next(states).result == {"step": 1}
    store("done", task_id=result.id)
    wait_until(lambda: result.on_ready.ready, "its arrival")
    result.forget()
    assert pairs(list(states)) == [("SUCCESS", "done")]


def test_forgotten_while_it_runs(app: Celery, store: Store) -> None:
    result = app.AsyncResult(uuid())
    step(store, result.id, 1)
    watcher = Watcher(result)
    wait_until(lambda: watcher.seen, "the first state")
    result.forget()
    app.AsyncResult(result.id).forget()
    store("done", task_id=result.id)
    assert pairs(watcher.wait())[-1] == ("SUCCESS", "done")


# -- many watchers, slow ones


@every_kind
def test_many_watchers_of_one_task(app: Celery, store: Store, results: RedisServer) -> None:
    task_id, count = uuid(), size(1000, 100)
    result = app.AsyncResult(task_id)
    # Half of them through one result object, half with one each.
    watchers = [Watcher(app.AsyncResult(task_id) if i % 2 else result) for i in range(count)]
    step(store, task_id, 0)
    for number in range(1, 4):
        wait_until(lambda: all(len(w.seen) >= number for w in watchers), "the step")  # noqa: B023
        step(store, task_id, number)
    if results.clients():
        assert results.subscriptions() == 1
        assert len(results.clients(sub="1")) == 1
    assert app.backend.result_consumer.statistics().pending == 1  # the task, not its watchers
    wait_until(lambda: all(len(watcher.seen) == 4 for watcher in watchers), "the last step")
    store(4, task_id=task_id)
    expected = [*(("PROGRESS", {"step": number}) for number in range(4)), ("SUCCESS", 4)]
    for watcher in watchers:
        assert pairs(watcher.wait()) == expected
    nothing_left(app, results)


@every_kind
def test_a_slow_reader_gets_the_newest_and_the_last(app: Celery, store: Store) -> None:
    # Lists, as what holds none is not tracked by the garbage collector before Python 3.14.
    task_id, steps = uuid(), 1000
    step(store, task_id, [-1])
    slow = watch(app.AsyncResult(task_id), timeout=60)
    assert next(slow).result == {"step": [-1]}
    quick = Watcher(app.AsyncResult(task_id), timeout=60)
    wait_until(lambda: quick.seen, "the state in the store")
    for number in range(steps):
        step(store, task_id, [number])
    wait_until(lambda: quick.seen[-1].result == {"step": [steps - 1]}, "the newest", timeout=60)
    gc.collect()
    held = sum(
        type(thing) is dict and set(thing) == {"step"} and type(thing["step"]) is list
        for thing in gc.get_objects()
    )
    # What the quick one has seen is kept by this test.
    assert len(quick.seen) <= held < len(quick.seen) + 20
    store("done", task_id=task_id)
    quick.wait()
    assert pairs(list(slow)) == [("PROGRESS", {"step": [steps - 1]}), ("SUCCESS", "done")]


def flood(app: Celery, task_id: str, states: list[tuple[str, Any]]) -> None:
    """Publish *states* of one task at once, more of them than a socket gives at a time."""
    key = app.backend.get_key_for_task(task_id)
    pipe = app.backend.client.pipeline(transaction=False)
    for status, value in states:
        meta = {"task_id": task_id, "status": status, "result": value, "traceback": None}
        pipe.set(key, json.dumps(meta)).publish(key, json.dumps(meta))
    pipe.execute()


STEPS = [("PROGRESS", {"step": number}) for number in range(5000)]


def test_an_on_message_that_is_slow_is_not_owed_all(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pending, "INBOX", 100)
    task_id, seen, published = uuid(), [], threading.Event()

    def handle(meta: dict[str, Any]) -> None:
        published.wait(20)
        seen.append(meta["status"])

    outcome = spawn_get(app.AsyncResult(task_id), on_message=handle)
    subscriptions = app.backend.result_consumer.statistics
    wait_until(lambda: subscriptions().subscriptions == 1, "the wait")
    flood(app, task_id, [*STEPS, ("SUCCESS", 1)])
    wait_until(lambda: subscriptions().delivered == 1, "the result")
    published.set()
    wait_until(lambda: outcome == [1], "the end of the wait")
    assert 100 <= len(seen) <= 102
    assert seen[-1] == "SUCCESS"
    assert caplog.text.count("on_message is slower") == 1


def test_of_states_that_come_at_once_few_are_read(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []
    decode = app.backend.decode
    task_id = uuid()
    watcher = Watcher(app.AsyncResult(task_id))
    wait_until(lambda: app.backend.result_consumer.statistics().subscriptions == 1, "the watcher")
    monkeypatch.setattr(app.backend, "decode", lambda data: (read.append(data), decode(data))[1])
    flood(app, task_id, STEPS)
    wait_until(lambda: watcher.seen and pairs(watcher.seen)[-1] == STEPS[-1], "the newest")
    assert len(read) < len(STEPS) / 10
    steps = [state.result["step"] for state in watcher.seen]
    assert steps == sorted(set(steps))
    flood(app, task_id, [*STEPS, ("SUCCESS", "done"), *STEPS])
    assert pairs(watcher.wait())[-1] == ("SUCCESS", "done")
    assert len(read) < len(STEPS) / 5


def test_who_asks_for_each_gets_each(app: Celery, store: Store) -> None:
    """Beside one who watches the same task."""
    task_id = uuid()
    step(store, task_id, -1)
    seen: list[tuple[str, Any]] = []
    watcher = Watcher(app.AsyncResult(task_id))
    value = spawn_get(
        app.AsyncResult(task_id),
        on_message=lambda meta: seen.append((meta["status"], meta["result"])),
    )
    wait_until(lambda: seen and watcher.seen, "both")
    flood(app, task_id, [*STEPS, ("SUCCESS", "done")])
    wait_until(lambda: value == ["done"], "the result")
    assert seen == [("PROGRESS", {"step": -1}), *STEPS, ("SUCCESS", "done")]
    assert pairs(watcher.wait())[-1] == ("SUCCESS", "done")


@every_kind
def test_states_that_are_equal_are_states(app: Celery, store: Store) -> None:
    """A task that reports the same again and again is seen to live."""
    task_id = uuid()
    step(store, task_id, 0)
    watcher = Watcher(app.AsyncResult(task_id))
    wait_until(lambda: watcher.seen, "the state in the store")
    for count in range(2, 5):
        step(store, task_id, 1)
        wait_until(lambda: len(watcher.seen) == count, "the state")  # noqa: B023
    store(1, task_id=task_id)
    assert len(watcher.wait()) == 5


@every_kind
@pytest.mark.skipif(not GREEN, reason="all threads are native here")
def test_a_native_thread_watches_as_well(app: Celery, store: Store) -> None:
    task_id = uuid()
    step(store, task_id, 1)
    first = Watcher(app.AsyncResult(task_id))
    wait_until(lambda: first.seen, "the state, in the main thread")
    native = in_native_thread(lambda: pairs(list(watch(app.AsyncResult(task_id), timeout=20))))
    store(2, task_id=task_id)
    assert native()[-1] == ("SUCCESS", 2)
    assert len(first.wait()) == 2


@every_kind
def test_each_watcher_of_many_tasks_gets_its_own(app: Celery) -> None:
    progress = app.tasks["progress"]

    def follow(i: int) -> list[tuple[str, Any]]:
        result = progress.apply_async((1 + i % 4, 0), countdown=1)
        return pairs([state for state in watch(result, timeout=60) if state.ready])

    count = size(200, 30)
    assert crowd(count, follow) == [[("SUCCESS", 1 + i % 4)] for i in range(count)]


# -- groups


@every_kind
def test_a_group(app: Celery, results: RedisServer) -> None:
    tasks = [
        app.tasks["progress"].s(3, 0.3).set(countdown=1),
        app.tasks["fail"].s().set(countdown=1),
    ]
    result = group(tasks)()
    seen = list(watch(result, timeout=30))
    assert {state.total for state in seen} == {2}
    assert [state.done for state in seen if state.ready] == [1, 2]
    assert [state.last for state in seen] == [False] * (len(seen) - 1) + [True]
    progressing, failing = (member.id for member in result.results)
    ends = {state.task_id: state.status for state in seen if state.ready}
    assert ends == {progressing: "SUCCESS", failing: "FAILURE"}
    steps = [s.result["step"] for s in seen if s.status == "PROGRESS" and s.task_id == progressing]
    # Those that come in the same moment count as one.
    assert steps
    assert steps == sorted(set(steps))
    nothing_left(app, results)


@every_kind
def test_a_group_of_groups_with_members_that_are_ready(
    app: Celery, store: Store, results: RedisServer
) -> None:
    known, stored, late = app.AsyncResult(store(1)), app.AsyncResult(store(2)), uuid()
    wait_until(known.ready, "what is known by the result itself")
    inner = GroupResult(uuid(), [stored, app.AsyncResult(late)])
    # One task twice is one task.
    watcher = Watcher(ResultSet([known, inner, app.AsyncResult(stored.id)]))
    wait_until(lambda: len(watcher.seen) == 2, "those that are ready")
    step(store, late, 5)
    wait_until(lambda: len(watcher.seen) == 3, "the step")
    store(3, task_id=late)
    assert [(s.task_id, s.result, s.done, s.total) for s in watcher.wait()] == [
        (known.id, 1, 1, 3),
        (stored.id, 2, 2, 3),
        (late, {"step": 5}, 2, 3),
        (late, 3, 3, 3),
    ]
    nothing_left(app, results)


@every_kind
def test_the_steps_of_a_chain(app: Celery) -> None:
    add = app.tasks["add"]
    result = chain(add.s(1, 1), add.s(1))()
    seen = watch(ResultSet([result.parent, result]), timeout=20)
    ends = {state.task_id: state.result for state in seen if state.ready}
    assert ends == {result.parent.id: 2, result.id: 3}


def test_a_group_without_members(app: Celery) -> None:
    assert list(watch(GroupResult(uuid(), []), timeout=1)) == []


# -- ends


def close(states: Generator[State, None, None]) -> None:
    states.close()


def collect(states: Generator[State, None, None]) -> None:
    del states
    gc.collect()


@every_kind
@pytest.mark.parametrize("members", [1, 5])
@pytest.mark.parametrize("end", [close, collect])
def test_an_end_before_the_last_leaves_nothing(
    app: Celery, store: Store, results: RedisServer, end: Callable[..., None], members: int
) -> None:
    ids = [uuid() for _ in range(members)]
    for task_id in ids:
        step(store, task_id, 1)
    held = [watch(ResultSet([app.AsyncResult(task_id) for task_id in ids]), timeout=60)]
    assert next(held[0]).result == {"step": 1}
    statistics = app.backend.result_consumer.statistics
    wait_until(lambda: statistics().pending == members, "all subscriptions")
    end(held.pop())
    nothing_left(app, results)


def test_one_that_was_never_begun_leaves_nothing(app: Celery, results: RedisServer) -> None:
    states = watch(app.AsyncResult(uuid()))
    states.close()
    watch(app.AsyncResult(uuid()))
    assert app.backend.result_consumer.statistics().drainer is None
    assert results.clients() == []


@every_kind
def test_one_ends_and_the_other_goes_on(app: Celery, store: Store, results: RedisServer) -> None:
    result = app.AsyncResult(uuid())
    step(store, result.id, 1)
    states, other = watch(result, timeout=20), watch(result, timeout=20)
    assert next(states) == next(other)
    states.close()
    store(2, task_id=result.id)
    assert pairs(list(other)) == [("SUCCESS", 2)]
    nothing_left(app, results)


@every_kind
@pytest.mark.skipif(not GREEN, reason="a thread cannot be killed")
def test_a_killed_greenlet_leaves_nothing(app: Celery, results: RedisServer) -> None:
    watcher = Watcher(app.AsyncResult(uuid()), timeout=None)
    wait_until(lambda: app.backend.result_consumer.statistics().pending, "its subscription")
    kill(watcher.spawned)
    wait_until(lambda: watcher.ended, "its end")
    nothing_left(app, results)


@every_kind
def test_what_the_reader_raises_leaves_nothing(
    app: Celery, store: Store, results: RedisServer
) -> None:
    task_id = uuid()
    step(store, task_id, 1)

    def read() -> None:
        for _ in watch(app.AsyncResult(task_id), timeout=20):
            raise LookupError("the reader's own")

    with suppress(LookupError):
        read()
    nothing_left(app, results)


@every_kind
def test_timeout(app: Celery, store: Store, results: RedisServer) -> None:
    """It is for all of it: a state on the way does not prolong it."""
    task_id = uuid()
    step(store, task_id, 1)
    states = watch(app.AsyncResult(task_id), timeout=0.5)
    begun = time.monotonic()
    assert next(states).result == {"step": 1}
    with pytest.raises(TimeoutError):
        next(states)
    assert 0.5 <= time.monotonic() - begun < 5
    nothing_left(app, results)


@every_kind
@pytest.mark.parametrize("how", ["watch", "get"])
def test_timeout_of_a_reader_that_is_slower_than_the_task(
    app: Celery, store: Store, how: str
) -> None:
    """There is always one more state for it."""
    task_id, over = uuid(), threading.Event()
    result = app.AsyncResult(task_id)

    def report() -> None:
        for number in range(10_000):
            step(store, task_id, number)
            if over.wait(0.01):
                return

    def dawdle(state: object) -> None:
        time.sleep(0.05)

    def read() -> None:
        try:
            if how == "get":
                result.get(timeout=0.5, on_message=dawdle)
            for state in watch(result, timeout=0.5):
                dawdle(state)
        finally:
            over.set()

    _, error = crowd(2, lambda i: read() if i else report())
    assert isinstance(error, TimeoutError)


@every_kind
def test_timeout_of_a_reader_that_is_elsewhere(app: Celery, store: Store) -> None:
    """It still gets what was the newest state then."""
    task_id = uuid()
    step(store, task_id, 1)
    states, other = watch(app.AsyncResult(task_id), timeout=1), Watcher(app.AsyncResult(task_id))
    assert next(states).result == {"step": 1}
    wait_until(lambda: other.seen, "the first state")
    step(store, task_id, 2)
    wait_until(lambda: other.seen[-1].result == {"step": 2}, "the second one")
    time.sleep(1)
    assert next(states).result == {"step": 2}
    with pytest.raises(TimeoutError):
        next(states)
    store("done", task_id=task_id)
    other.wait()


def test_timeout_of_zero_looks_once(app: Celery, store: Store, results: RedisServer) -> None:
    task_id = uuid()
    step(store, task_id, 1)
    stored = app.AsyncResult(store(3))
    both = ResultSet([stored, app.AsyncResult(task_id), app.AsyncResult(uuid())])
    results.reset_calls()
    states = watch(both, timeout=0)
    assert pairs([next(states), next(states)]) == [("SUCCESS", 3), ("PROGRESS", {"step": 1})]
    with pytest.raises(TimeoutError):
        next(states)
    assert pairs(list(watch(app.AsyncResult(store(4)), timeout=-1))) == [("SUCCESS", 4)]
    assert results.calls("subscribe") == 0


@every_kind
def test_the_drainer_is_stopped(app: Celery, store: Store, results: RedisServer) -> None:
    result = app.AsyncResult(uuid())
    watcher = Watcher(result)
    wait_until(lambda: app.backend.result_consumer.statistics().pending, "its subscription")
    app.backend.result_consumer.stop()
    watcher.wait()
    assert isinstance(watcher.error, DrainerStopped)
    again = Watcher(result)
    store(1, task_id=result.id)
    assert pairs(again.wait()) == [("SUCCESS", 1)]


def test_an_outage(make: Callable[..., Celery]) -> None:
    own = RedisServer()
    app = make(results=own.url("web"), result_drainer_retry_max=0.2)
    result = app.AsyncResult(uuid())
    app.backend.store_result(result.id, {"step": 1}, "PROGRESS")
    watcher = Watcher(result, timeout=60)
    wait_until(lambda: watcher.seen, "the first state")
    own.kill()
    own.start()
    app.backend.client.connection_pool.disconnect()
    app.backend.store_result(result.id, 2, "SUCCESS")
    assert pairs(watcher.wait()) == [("PROGRESS", {"step": 1}), ("SUCCESS", 2)]
    app.backend.result_consumer.stop()
    own.end()


# -- what cannot be watched


def test_what_is_no_result(app: Celery) -> None:
    with pytest.raises(TypeError, match=r"not 'b0b'.*AsyncResult"):
        watch("b0b")


def test_a_backend_that_no_drainer_serves(make: Callable[..., Celery]) -> None:
    app = make(result_drainer=None)
    with pytest.raises(ImproperlyConfigured, match=r"RedisBackend.* set result_drainer"):
        watch(app.AsyncResult(uuid()))
    app.backend.result_consumer.stop()


def test_a_task_that_ignores_its_result(app: Celery) -> None:
    with pytest.raises(ValueError, match="ignore_result"):
        watch(app.tasks["ignored"].delay())


@pytest.mark.kinds("redis")
def test_within_a_task(app: Celery) -> None:
    last = list(watch(app.tasks["watching"].delay(), timeout=20))[-1]
    assert last.result == "Never call result.get() within a task!"


def test_an_eager_result() -> None:
    with allow_join_result():
        assert pairs(list(watch(EagerResult("1", 5, "SUCCESS")))) == [("SUCCESS", 5)]


def test_the_name_stays_a_function() -> None:
    """A submodule of that name would take its place in the package."""
    assert celery_green_drain.watch is watch
    assert {"watch", "State"} <= set(dir(celery_green_drain))
