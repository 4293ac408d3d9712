"""Celery's result API, with a real worker, for each kind of results."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal

import pytest
from celery import Celery, chain, chord, group, uuid
from celery.exceptions import ChordError, TaskRevokedError, TimeoutError
from celery.result import AsyncResult, GroupResult, ResultSet, allow_join_result
from vine import promise

from celery_green_drain import pending, sse, watch
from celery_green_drain.backends import base
from celery_green_drain.consumers.rpc.amqp import AmqpSession
from celery_green_drain.consumers.rpc.virtual import VirtualSession

from .conftest import SERVED
from .green import crowd, size, spawn, spawn_get, wait_until
from .servers import RedisServer

pytestmark = pytest.mark.kinds(*SERVED)

#: For what messages cannot do, in Celery either, and what has nothing to do with them.
stored = pytest.mark.kinds("redis")


def test_get(app: Celery) -> None:
    assert app.tasks["add"].delay(2, 3).get(timeout=20) == 5


@stored
def test_what_celery_keeps_of_results_is_enough(make: Callable[..., Celery]) -> None:
    app = make(result_cache_max=100)
    ids = [uuid() for _ in range(3)]
    for number, task_id in enumerate(ids):
        app.backend.store_result(task_id, number, "SUCCESS")
    seen, waited_for, both = map(app.AsyncResult, ids)
    assert seen.ready()
    assert both.state == "SUCCESS"
    assert waited_for.get(timeout=20) == 1
    for task_id in ids:  # as if it had expired
        app.backend.client.delete(app.backend.get_key_for_task(task_id))
    assert [app.AsyncResult(task_id).get(timeout=20) for task_id in ids] == [0, 1, 2]
    assert app.AsyncResult(ids[1]).state == "SUCCESS"
    together = GroupResult(uuid(), list(map(app.AsyncResult, ids)), app=app)
    assert together.get(timeout=20) == [0, 1, 2]
    called: list[AsyncResult] = []
    app.AsyncResult(ids[0]).then(called.append)
    wait_until(lambda: called, "the callback")
    app.AsyncResult(ids[0]).forget()
    with pytest.raises(TimeoutError):
        app.AsyncResult(ids[0]).get(timeout=0.1)
    # Also where it is long, and forgotten as soon as it has come.
    large = app.AsyncResult(uuid())
    app.backend.store_result(large.id, list(range(100_000)), "SUCCESS")
    large.get(timeout=20)
    large.forget()
    assert app.AsyncResult(large.id).state == "PENDING"


def test_many_at_once_each_get_their_own(app: Celery) -> None:
    add = app.tasks["add"]
    count = size(200, 50)
    assert crowd(count, lambda i: add.delay(i, 1).get(timeout=60)) == [i + 1 for i in range(count)]


def test_a_result_is_ready_afterwards(app: Celery) -> None:
    result = app.tasks["add"].delay(2, 3)
    result.get(timeout=20)
    assert result.ready()
    assert result.successful()
    assert result.state == "SUCCESS"
    assert result.get(timeout=0) == 5


def test_a_result_that_is_ready_keeps_no_wait(app: Celery) -> None:
    """As where another thread was faster between Celery's own look and the wait."""
    result = app.tasks["add"].delay(2, 3)
    result.get(timeout=20)
    assert app.backend.wait_for_pending(result, timeout=20) == 5
    assert result.on_ready.audience == []


def test_failure_is_raised(app: Celery) -> None:
    result = app.tasks["fail"].delay("bad luck")
    with pytest.raises(ValueError, match="bad luck"):
        result.get(timeout=20)
    assert result.failed()
    assert "bad luck" in result.traceback


def test_failure_is_returned_without_propagate(app: Celery) -> None:
    value = app.tasks["fail"].delay("bad luck").get(timeout=20, propagate=False)
    assert isinstance(value, ValueError)


def test_an_exception_that_cannot_be_rebuilt_is_raised_as_another(app: Celery) -> None:
    with pytest.raises(Exception, match="Picky"):
        app.tasks["fail_picky"].delay().get(timeout=20)


def test_get_calls_back(app: Celery) -> None:
    calls = []
    result = app.tasks["add"].delay(2, 3)
    result.get(timeout=20, callback=lambda *args: calls.append(args))
    assert calls == [(result.id, 5)]


def test_timeout_is_exact(app: Celery) -> None:
    took = []
    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            app.AsyncResult(uuid()).get(timeout=0.3)
        took.append(time.monotonic() - started)
    assert 0.3 <= min(took) < 0.9  # stock: a whole second, each time


def test_timeout_of_zero_looks_once(app: Celery) -> None:
    with pytest.raises(TimeoutError):
        app.AsyncResult(uuid()).get(timeout=0)
    result = app.tasks["add"].delay(2, 3)
    result.get(timeout=20)
    assert app.AsyncResult(result.id).get(timeout=0) == 5


@pytest.mark.parametrize(
    "wait",
    [
        lambda app, **nan: app.AsyncResult(uuid()).get(**nan),
        lambda app, **nan: app.AsyncResult(uuid()).get(on_message=print, **nan),
        lambda app, **nan: ResultSet([app.AsyncResult(uuid())], app=app).get(**nan),
        lambda app, **nan: list(ResultSet([app.AsyncResult(uuid())], app=app).iter_native(**nan)),
        lambda app, **nan: watch(app.AsyncResult(uuid()), **nan),
        lambda app, **nan: sse.stream(app.AsyncResult(uuid()), **nan),
    ],
    ids=["get", "on_message", "group", "iter_native", "watch", "sse"],
)
def test_a_timeout_that_is_no_number(app: Celery, wait: Callable[..., object]) -> None:
    """As by ``float(request.args["timeout"])``: a hub would never look at its timers again."""
    with pytest.raises(ValueError, match="timeout = nan"):
        wait(app, timeout=float("nan"))
    assert app.backend.result_consumer.statistics().pending == 0


def test_an_interval_that_is_no_number(app: Celery) -> None:
    with pytest.raises(ValueError, match="interval = nan"):
        app.AsyncResult(uuid()).get(timeout=1, interval=float("nan"), on_interval=print)


def test_a_timeout_of_another_kind_of_number(app: Celery) -> None:
    """As Django's ``DecimalField`` has it."""
    assert app.tasks["add"].delay(2, 3).get(timeout=Decimal("20.5")) == 5
    with pytest.raises(TimeoutError):
        app.AsyncResult(uuid()).get(timeout=Decimal("0.1"))


def test_a_timeout_without_end(app: Celery) -> None:
    assert app.tasks["add"].delay(2, 3).get(timeout=float("inf")) == 5


def test_timeout_then_another_try(app: Celery) -> None:
    result = app.tasks["nap"].delay(0.5, "late")
    with pytest.raises(TimeoutError):
        result.get(timeout=0.05)
    assert result.get(timeout=20) == "late"


def test_a_task_that_finished_long_ago(app: Celery) -> None:
    task_id = app.tasks["add"].delay(2, 3).id
    wait_until(lambda: app.AsyncResult(task_id).ready(), "the task's end")
    assert app.AsyncResult(task_id).get(timeout=20) == 5


def test_celerys_own_result_class(app: Celery) -> None:
    task_id = app.tasks["add"].delay(2, 3).id
    assert AsyncResult(task_id, app=app).get(timeout=20) == 5


def test_one_result_waited_for_by_many(app: Celery) -> None:
    result = app.tasks["nap"].delay(0.3, "all")
    assert crowd(20, lambda i: result.get(timeout=20)) == ["all"] * 20


def test_one_task_waited_for_through_many_results(app: Celery) -> None:
    task_id = app.tasks["nap"].delay(0.3, "all").id
    assert crowd(20, lambda i: app.AsyncResult(task_id).get(timeout=20)) == ["all"] * 20


def test_one_waiter_gives_up_and_the_other_gets_it(app: Celery) -> None:
    task_id = app.tasks["nap"].delay(0.5, "late").id
    outcomes = crowd(2, lambda i: app.AsyncResult(task_id).get(timeout=(0.05, 20)[i]))
    assert isinstance(outcomes[0], TimeoutError)
    assert outcomes[1] == "late"


def test_on_message_gets_all_messages_of_its_result_and_no_other(
    app: Celery, results: RedisServer
) -> None:
    ids = [uuid() for _ in range(4)]

    def follow(i: int) -> list[object]:
        seen: list[object] = []
        app.AsyncResult(ids[i]).get(timeout=30, on_message=seen.append)
        return seen

    def send() -> None:
        # Once they are waited for: a state that was replaced before is gone.
        wait_until(lambda: app.backend.result_consumer.statistics().pending == 4, "the waits")
        if app.conf.result_backend.startswith("redis:"):
            wait_until(lambda: results.subscriptions() == 4, "the subscriptions")
        for i, task_id in enumerate(ids):
            app.tasks["progress"].apply_async((3 + i,), task_id=task_id)

    sender = spawn(send)
    for i, seen in enumerate(crowd(4, follow)):
        assert len({message["task_id"] for message in seen}) == 1
        steps = [m["result"]["step"] for m in seen if m["status"] == "PROGRESS"]
        assert steps == list(range(3 + i))
        assert [m["status"] for m in seen if m["status"] != "PROGRESS"] == ["STARTED", "SUCCESS"]
    del sender


def test_on_message_begins_with_the_present_state(app: Celery, store: Callable[..., str]) -> None:
    task_id = store({"step": 7}, "PROGRESS")
    seen: list[dict[str, object]] = []
    waiter = spawn(
        lambda: app.AsyncResult(task_id).get(timeout=20, on_message=seen.append, propagate=False)
    )
    wait_until(lambda: seen, "the state in the store")
    # A second waiter of the same task, which is subscribed to already.
    later: list[dict[str, object]] = []
    other = spawn(lambda: app.AsyncResult(task_id).get(timeout=20, on_message=later.append))
    wait_until(lambda: later, "the state for the second")
    store(1, task_id=task_id)
    wait_until(lambda: len(seen) == len(later) == 2, "the end")
    assert [message["status"] for message in seen] == ["PROGRESS", "SUCCESS"]
    assert [message["status"] for message in later] == ["PROGRESS", "SUCCESS"]
    del waiter, other


def test_what_on_message_raises_is_raised_to_its_caller_alone(app: Celery) -> None:
    task_id = app.tasks["nap"].delay(0.3, "fine").id

    def refuse(message: object) -> None:
        raise LookupError("not this one")

    def get(i: int) -> object:
        options = {"on_message": refuse} if i else {}
        return app.AsyncResult(task_id).get(timeout=20, **options)

    fine, refused = crowd(2, get)
    assert fine == "fine"
    assert isinstance(refused, LookupError)


def test_on_interval_is_called_while_waiting(app: Celery) -> None:
    ticks: list[float] = []
    app.tasks["nap"].delay(0.6).get(
        timeout=20, interval=0.1, on_interval=lambda: ticks.append(time.monotonic())
    )
    assert 2 <= len(ticks) <= 20


def test_state_and_info_while_it_runs(app: Celery) -> None:
    result = app.tasks["progress"].delay(20, 0.1)
    wait_until(lambda: result.state == "PROGRESS", "the first state")
    assert "step" in result.info
    assert result.get(timeout=20) == 20


def test_forget(app: Celery) -> None:
    result = app.tasks["add"].delay(2, 3)
    result.get(timeout=20)
    result.forget()
    assert result.state == "PENDING"
    with pytest.raises(TimeoutError):
        result.get(timeout=0.1)


def test_forget_spares_those_who_wait(app: Celery) -> None:
    task_id = app.tasks["nap"].delay(0.5, "fine").id
    waiting = threading.Event()

    def get(i: int) -> object:
        if i:
            waiting.wait(10)
            return app.AsyncResult(task_id).forget()
        result = app.AsyncResult(task_id)
        waiting.set()
        return result.get(timeout=20)

    assert crowd(2, get)[0] == "fine"


def test_revoked(app: Celery) -> None:
    result = app.tasks["add"].apply_async((2, 3), countdown=2)
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=20)


def test_ignored(app: Celery) -> None:
    result = app.tasks["ignored"].delay()
    assert result.get(timeout=0.1) is None


@stored
def test_eager_mode_is_stock(app: Celery) -> None:
    app.conf.task_always_eager = True
    result = app.tasks["add"].delay(2, 3)
    assert type(result).__name__ == "EagerResult"
    calls: list[object] = []
    result.then(calls.append)
    assert calls == [result]
    assert result.get() == 5
    group_result = group(app.tasks["add"].s(i, i) for i in range(3))()
    assert group_result.get() == [0, 2, 4]


def test_timeout_of_zero_shows_the_state_it_saw(app: Celery) -> None:
    seen: list[dict[str, object]] = []
    with pytest.raises(TimeoutError):
        app.AsyncResult(uuid()).get(timeout=0, on_message=seen.append)
    assert [message["status"] for message in seen] == ["PENDING"]


@stored
def test_pickled(app: Celery, make: Callable[..., Celery]) -> None:
    """A result comes back with the backend that the process has, if it is the same."""
    task_id = app.tasks["add"].delay(2, 3).id
    pickled = pickle.dumps(app.AsyncResult(task_id))
    app.set_current()
    result = pickle.loads(pickled)
    assert result.backend is app.backend
    assert result.get(timeout=20) == 5
    other = make(result_drainer=None)
    other.set_current()
    result = pickle.loads(pickled)
    assert result.backend is not app.backend
    assert result.get(timeout=20) == 5
    result.backend.result_consumer.stop()


def test_add_pending_results(app: Celery) -> None:
    results = [app.tasks["add"].delay(i, i) for i in range(3)]
    assert app.backend.add_pending_results(results) == results
    assert [result.get(timeout=20) for result in results] == [0, 2, 4]


def test_a_promise_put_in_our_place(app: Celery) -> None:
    result = app.tasks["nap"].delay(0.5, "fine")

    def get(i: int) -> object:
        if i:
            time.sleep(0.1)
            result.on_ready = promise()
            return None
        return result.get(timeout=20)

    assert crowd(2, get)[0] == "fine"


# -- groups


@pytest.mark.parametrize("how", ["get", "join", "join_native"])
def test_group(app: Celery, how: str) -> None:
    result = group(app.tasks["add"].s(i, i) for i in range(20))()
    assert getattr(result, how)(timeout=30) == [2 * i for i in range(20)]
    assert result.successful()


def test_group_calls_back_for_each(app: Celery) -> None:
    calls: dict[str, int] = {}
    result = group(app.tasks["add"].s(i, i) for i in range(5))()
    result.get(timeout=30, callback=calls.__setitem__)
    assert calls == {member.id: 2 * i for i, member in enumerate(result)}


def test_group_raises_what_a_member_raised(app: Celery) -> None:
    result = group(app.tasks["add"].s(1, 1), app.tasks["fail"].s("one of them"))()
    with pytest.raises(ValueError, match="one of them"):
        result.get(timeout=30)
    values = result.get(timeout=30, propagate=False)
    assert values[0] == 2
    assert isinstance(values[1], ValueError)


def test_group_times_out(app: Celery) -> None:
    result = group(app.tasks["add"].s(1, 1), app.tasks["nap"].s(3))()
    with pytest.raises(TimeoutError):
        result.get(timeout=0.3)
    with pytest.raises(TimeoutError):
        ResultSet([app.AsyncResult(uuid()), app.AsyncResult(uuid())]).get(timeout=0)


def test_iter_native_yields_each_as_it_arrives(app: Celery) -> None:
    seconds = (0.9, 0.1, 0.5)
    result = group(app.tasks["nap"].s(pause, pause) for pause in seconds)()
    order = [meta["result"] for _, meta in result.iter_native(timeout=30)]
    assert order == sorted(seconds)
    # Once more, now that all are here.
    assert len(list(result.iter_native(timeout=0))) == 3


@stored
def test_iter_native_yields_after_its_timeout_what_has_come_before(
    app: Celery, store: Callable[..., str]
) -> None:
    """Who iterates over it may have been elsewhere."""
    results = ResultSet([app.AsyncResult(store(i)) for i in range(3)])
    values = results.iter_native(timeout=1)
    next(values)
    wait_until(lambda: not app.backend.result_consumer.statistics().pending, "the others")
    time.sleep(1)
    assert len(list(values)) == 2


@stored
def test_how_much_many_waits_for_one_result_look_at_each_other(
    app: Celery, store: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0

    def is_wait(who: object) -> bool:
        nonlocal looked
        looked += 1
        return isinstance(who, pending.Wait)

    monkeypatch.setattr(pending, "_is_wait", is_wait)
    result, count = app.AsyncResult(uuid()), size(1000, 100)

    def wait(i: int) -> None:
        with suppress(TimeoutError):
            result.get(timeout=1)

    crowd(count, wait)
    assert result.on_ready.audience == []
    assert looked <= 10 * count


def test_iter_native_polls_with_a_timeout_of_zero(app: Celery) -> None:
    ids = [app.tasks["add"].delay(i, i).id for i in range(3)]
    for task_id in ids:
        app.AsyncResult(task_id).get(timeout=20)
    fresh = ResultSet([app.AsyncResult(task_id) for task_id in ids])
    assert [meta["result"] for _, meta in fresh.iter_native(timeout=0)] == [0, 2, 4]


def test_iter_native_of_nothing(app: Celery) -> None:
    assert list(app.backend.iter_native(ResultSet([]))) == []


def test_group_on_message_and_on_interval(app: Celery) -> None:
    messages: list[dict[str, object]] = []
    ticks: list[int] = []
    result = group(app.tasks["nap"].s(0.4, i) for i in range(3))()
    result.get(
        timeout=30,
        interval=0.1,
        on_message=messages.append,
        on_interval=lambda: ticks.append(1),
    )
    done = [message["task_id"] for message in messages if message["status"] == "SUCCESS"]
    assert sorted(done) == sorted(member.id for member in result)  # type: ignore[type-var]
    assert ticks


def test_nested_groups(app: Celery) -> None:
    add = app.tasks["add"]
    inner = [group(add.s(i, j) for j in range(3))() for i in range(3)]
    outer = GroupResult(uuid(), inner, app=app)
    assert outer.get(timeout=30) == [[i + j for j in range(3)] for i in range(3)]


@stored
def test_group_restored(app: Celery) -> None:
    result = group(app.tasks["add"].s(i, i) for i in range(3))()
    result.save()
    restored = GroupResult.restore(result.id, app=app)
    assert restored.get(timeout=30) == [0, 2, 4]
    restored.delete()
    assert GroupResult.restore(result.id, app=app) is None


# -- workflows


def test_chain(app: Celery) -> None:
    add = app.tasks["add"]
    result = chain(add.s(1, 2), add.s(3), add.s(4))()
    assert result.get(timeout=30) == 10
    assert result.parent.get(timeout=30) == 6


def test_chain_raises_what_a_parent_raised(app: Celery, store: Callable[..., str]) -> None:
    """Also where the end of the chain itself never hears of it."""
    parent = app.tasks["nap"].delay(0.3)
    child = app.AsyncResult(uuid(), parent=parent)

    def fail_parent(i: int) -> object:
        if i:
            return child.get(timeout=20)
        time.sleep(0.1)
        return store(LookupError("parent"), "FAILURE", parent.id)

    assert isinstance(crowd(2, fail_parent)[1], LookupError)


def test_chain_waits_on_after_its_parents_success(app: Celery) -> None:
    parent = app.tasks["nap"].delay(0.2)
    child = app.AsyncResult(app.tasks["nap"].delay(0.6, "child").id, parent=parent)
    assert child.get(timeout=20) == "child"


def test_chain_need_not_follow_its_parents(app: Celery, store: Callable[..., str]) -> None:
    parent = app.AsyncResult(store(LookupError("parent"), "FAILURE"))
    child = app.AsyncResult(app.tasks["nap"].delay(0.3, "child").id, parent=parent)
    assert child.get(timeout=20, follow_parents=False) == "child"


@stored
def test_chord(app: Celery) -> None:
    add, total = app.tasks["add"], app.tasks["total"]
    assert chord((add.s(i, i) for i in range(10)), total.s())().get(timeout=30) == 90


@stored
def test_chord_fails_with_a_member(app: Celery) -> None:
    result = chord([app.tasks["add"].s(1, 1), app.tasks["fail"].s()], app.tasks["total"].s())()
    with pytest.raises(Exception, match="on purpose"):
        result.get(timeout=30)


def test_a_failed_chord_raises_the_error_of_its_header(
    app: Celery, store: Callable[..., str]
) -> None:
    """Whichever comes first, and whatever the other tasks of the header do."""
    running, failing = app.AsyncResult(uuid()), app.AsyncResult(uuid())
    body = app.AsyncResult(uuid(), parent=GroupResult(uuid(), [running, failing], app=app))
    last = app.AsyncResult(uuid(), parent=body)
    outcomes = [spawn_get(body), spawn_get(last)]
    wait_until(lambda: app.backend.result_consumer.statistics().pending == 4, "the waits")
    store(ChordError("a task of the header has failed"), "FAILURE", body.id)
    wait_until(body.ready, "the error of the body")
    store(LookupError("header"), "FAILURE", failing.id)
    wait_until(lambda: all(outcomes), "the errors")
    assert [type(error) for (error,) in outcomes] == [LookupError, LookupError]


def test_a_failed_chord_whose_header_tells_nothing(app: Celery, store: Callable[..., str]) -> None:
    body = app.AsyncResult(uuid(), parent=app.AsyncResult(uuid()))
    outcome = spawn_get(body)
    wait_until(lambda: app.backend.result_consumer.statistics().pending == 2, "the wait")
    store(ChordError("a task of the header has failed"), "FAILURE", body.id)
    wait_until(lambda: outcome, "the error")
    assert isinstance(outcome[0], ChordError)


def test_a_header_that_tells_nothing_takes_no_longer_than_the_timeout(
    app: Celery, store: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "CAUSE", 60)
    body = app.AsyncResult(uuid(), parent=app.AsyncResult(uuid()))
    outcome = spawn_get(body, timeout=5)
    statistics = app.backend.result_consumer.statistics
    timeouts = statistics().timeouts
    wait_until(lambda: statistics().pending == 2, "the wait")
    store(ChordError("a task of the header has failed"), "FAILURE", body.id)
    wait_until(lambda: outcome, "the error")
    assert isinstance(outcome[0], ChordError)
    wait_until(lambda: not statistics().pending, "the end of the wait")
    assert statistics().timeouts == timeouts


@stored
def test_group_in_a_chain(app: Celery) -> None:
    add, total = app.tasks["add"], app.tasks["total"]
    result = chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s())()
    assert result.get(timeout=30) == 7


@stored
def test_collect(app: Celery) -> None:
    result = app.tasks["spread"].delay(3)
    result.get(timeout=30)
    wait_until(lambda: all(child.ready() for child in result.children), "all children")
    with allow_join_result():
        values = [value for _, value in result.collect(timeout=30)]
    assert [0, 2, 4] in values or values[-3:] == [0, 2, 4]


@pytest.mark.kinds("rpc, rabbitmq", "rpc, redis", "rpc, memory")
def test_which_session_serves(app: Celery) -> None:
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
    kind = AmqpSession if app.conf.broker_url.startswith("amqp") else VirtualSession
    assert isinstance(app.backend.result_consumer.session, kind)
