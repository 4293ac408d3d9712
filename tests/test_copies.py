"""Each waiter and each callback owns what it gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from celery import Celery, uuid
from celery.result import AsyncResult

from celery_green_drain import DrainerStopped, watch
from celery_green_drain.copies import own_error, own_value, same_state

from .conftest import KINDS
from .green import spawn, wait_until
from .servers import RedisServer
from .tasks import Picky


class Prefixed(Exception):
    """Made from another argument than it keeps."""

    def __init__(self, word: str) -> None:
        super().__init__(f"prefixed {word}")
        self.words = [word]


class Stubborn(Exception):
    """Cannot be copied."""

    def __new__(cls, *args: object) -> Stubborn:
        if args:
            raise TypeError("no copies")
        return super().__new__(cls)

    def __reduce__(self) -> Any:
        raise TypeError("no copies")


@dataclass(frozen=True)
class Frozen(Exception):
    """Refuses what is set."""

    word: str = "x"


class Held:
    """Cannot be copied either."""

    def __reduce__(self) -> Any:
        raise TypeError("no copies")


def raised(error: BaseException) -> BaseException:
    """*error* as it is after it was raised from another one."""
    try:
        raise error from KeyError("cause")
    except BaseException as exc:
        return exc


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x", 1),
        OSError(2, "No such file", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        SystemExit(3),
        KeyError("x"),
        Prefixed("x"),
        Picky(1, two=2),
        Frozen(),
        Frozen("y"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_ones_own(error: BaseException) -> None:
    copy = own_error(raised(error))
    assert copy is not error
    assert type(copy) is type(error)
    assert (copy.args, str(copy), vars(copy)) == (error.args, str(error), vars(error))
    assert copy.__traceback__ is None
    assert error.__traceback__ is not None
    assert repr(copy.__cause__) == "KeyError('cause')"
    assert copy.__cause__ is not error.__cause__
    assert getattr(copy, "errno", None) == getattr(error, "errno", None)


def test_an_error_that_cannot_be_copied_stays_itself() -> None:
    error = Stubborn()
    error.args = (1,)
    assert own_error(error) is error


def test_a_value_of_ones_own() -> None:
    held = Held()
    value = {"list": [{1}], "tuple": ([],), "error": ValueError("x"), "held": held, "n": 1}
    copy = own_value(value)
    assert same_state({"result": copy.pop("error")}, {"result": value.pop("error")})
    assert copy == value
    copy["list"][0].add(2)
    copy["tuple"][0].append(2)
    assert value == {"list": [{1}], "tuple": ([],), "held": held, "n": 1}


def test_states_that_say_the_same() -> None:
    retry = {"status": "RETRY", "result": ValueError("x")}
    assert same_state(retry, {**retry, "result": ValueError("x")})
    assert not same_state(retry, {**retry, "result": ValueError("y")})
    assert not same_state(retry, {**retry, "result": None})

    class Array:
        def __eq__(self, other: object) -> bool:
            raise ValueError("ambiguous")

        __hash__ = None  # type: ignore[assignment]

    assert not same_state({"result": Array()}, {"result": Array()})


# -- through the drain loop

PEOPLE = range(5)


def pending(app: Celery) -> int:
    count: int = app.backend.result_consumer.statistics().pending
    return count


def each(app: Celery, ask: Callable[[int], Any]) -> tuple[list[Any], Any]:
    """Have each of the people ask beside the test; return what they get, and the wait for it."""
    got: list[Any] = []
    for person in PEOPLE:
        spawn(lambda person=person: got.append(ask(person)))
    return got, lambda: wait_until(lambda: len(got) == len(PEOPLE), "what all of them get")


def locals_of(error: BaseException | None) -> set[int]:
    """Whose frames are in the traceback of *error*."""
    found = set()
    trace = error.__traceback__ if error else None
    while trace is not None:
        if "person" in trace.tb_frame.f_locals:
            found.add(trace.tb_frame.f_locals["person"])
        trace = trace.tb_next
    return found


def caught(result: AsyncResult, person: int, begin: Any) -> tuple[int, BaseException]:
    """Wait, catch the error, and look at it once the others have caught it too."""
    try:
        result.get(timeout=30)
    except Exception as exc:
        begin.append(person)
        wait_until(lambda: len(begin) == len(PEOPLE), "the others")
        return person, exc
    raise AssertionError("it has failed")


@pytest.mark.kinds(*KINDS)
def test_a_value_for_each(app: Celery, store: Callable[..., str]) -> None:
    """Several results of one task, callbacks, states on the way, and who comes late."""
    task_id = uuid()
    states: list[Any] = []
    results = [app.AsyncResult(task_id) for _ in PEOPLE]
    for result in results[:2]:
        result.then(lambda result: states.append(result.result))

    def ask(person: int) -> Any:
        if person % 2:
            (*_, last) = watch(app.AsyncResult(task_id), timeout=30)
            return last.result
        on_message = (lambda meta: states.append(meta["result"])) if person else None
        return results[person].get(timeout=30, on_message=on_message)

    got, wait = each(app, ask)
    wait_until(lambda: pending(app) == 1, "the waits")
    store({"items": ["step"]}, "PROGRESS", task_id)
    wait_until(lambda: len(states) >= 2, "the state on the way")
    joined: list[Any] = []
    late = watch(app.AsyncResult(task_id), timeout=30)
    joined.append(next(late).result)
    states[0]["items"].append("changed")
    assert states[1] == joined[0] == {"items": ["step"]}
    store({"items": []}, task_id=task_id)
    wait()
    got.append(app.AsyncResult(task_id).get(timeout=30))
    got.append(next(late).result)
    wait_until(lambda: len(states) == 6, "the callbacks and the last state")
    for number, value in enumerate(got):
        assert value == {"items": []}
        value["items"].append(number)


def test_a_stored_state_for_each_over_two_connections(
    make: Callable[..., Celery], results: RedisServer
) -> None:
    app = make(results=f"{results.url('web')}&protocol=2")
    task_id = uuid()
    app.backend.store_result(task_id, {"items": []}, "PROGRESS")
    watchers = [watch(app.AsyncResult(task_id), timeout=30) for _ in range(3)]
    for watcher in watchers:
        value = next(watcher).result
        assert value == {"items": []}
        value["items"].append("changed")


@pytest.mark.kinds(*KINDS)
def test_an_error_for_each(app: Celery, store: Callable[..., str]) -> None:
    """Through one result, and through several; to waits and to callbacks."""
    task_id = uuid()
    shared = app.AsyncResult(task_id)
    told: list[BaseException] = []
    shared.then(print, told.append)
    shared.then(print, told.append)
    begin: list[int] = []
    got, wait = each(app, lambda n: caught(shared if n < 3 else app.AsyncResult(task_id), n, begin))
    wait_until(lambda: pending(app) == 1, "the waits")
    store(ValueError("x"), "FAILURE", task_id)
    wait()
    wait_until(lambda: len(told) == 2, "the callbacks")
    errors = [error for _, error in got] + told
    assert len(set(map(id, errors))) == len(errors)
    assert {repr(error) for error in errors} == {"ValueError('x')"}
    assert [locals_of(error) for _, error in got] == [{person} for person, _ in got]


def test_a_stop_is_an_error_for_each(app: Celery) -> None:
    begin: list[int] = []
    got, wait = each(app, lambda n: caught(app.AsyncResult(uuid()), n, begin))
    wait_until(lambda: pending(app) == len(PEOPLE), "the waits")
    app.backend.result_consumer.stop()
    wait()
    assert [locals_of(error) for _, error in got] == [{person} for person, _ in got]
    assert all(isinstance(error, DrainerStopped) for _, error in got)


@pytest.mark.kinds("redis", "rpc, rabbitmq")
def test_what_cannot_be_read_is_an_error_for_each(
    app: Celery, store: Callable[..., str], results: RedisServer
) -> None:
    task_id = uuid()
    shared = app.AsyncResult(task_id)
    begin: list[int] = []
    got, wait = each(app, lambda n: caught(shared if n < 3 else app.AsyncResult(task_id), n, begin))
    wait_until(lambda: pending(app) == 1, "the waits")
    consumer = app.backend.result_consumer

    def spoil() -> None:
        consumer.table.fail([task_id], raised(LookupError("spoilt")))

    consumer.in_loop(spoil)
    wait()
    assert [locals_of(error) for _, error in got] == [{person} for person, _ in got]
    assert shared.on_ready.error.__traceback__ is None
