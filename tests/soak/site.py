"""The web application of the soak: a request sends tasks, and waits for them in some way."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable, Iterable
from typing import Any

from celery import group, uuid
from celery.exceptions import TimeoutError

from ..green import MODE, drain_loops, kill, spawn
from ..tasks import make_app
from .ledger import PATIENCE, Book

app = make_app(
    os.environ["SOAK_BROKER"],
    os.environ["SOAK_RESULTS"],
    result_drainer=MODE,
    result_drainer_heartbeat=2,
    result_drainer_retry_max=2,
    result_drainer_reconcile_interval=5,
    drained_from=os.environ["SOAK_BROKER_READ"],
    # A task that the broker has not taken is none that was sent.
    broker_transport_options={"confirm_publish": True},
)
book = Book(os.environ["SOAK_FOLDER"], os.environ["SOAK_NAME"])


def nap() -> Any:
    """A task that takes a while, and returns a value that no other returns."""
    return app.tasks["nap"].s(random.choice((0, 0, 0.2, 1)), uuid())


def send(signature: Any) -> tuple[Any, Any]:
    result = signature.delay()
    book.sent(result.id)
    return result, signature.args[1]


def get(result: Any, value: Any) -> None:
    waiter = book.waits(result.id, value)
    book.got(waiter, result.get(timeout=PATIENCE))


def call_back(result: Any, value: Any) -> threading.Event:
    waiter = book.waits(result.id, value)
    called = threading.Event()

    def note(result: Any) -> None:
        book.got(waiter, result.get(timeout=0))
        called.set()

    result.then(note)
    return called


def by_get() -> None:
    get(*send(nap()))


def by_callback() -> None:
    if not call_back(*send(nap())).wait(PATIENCE):
        raise TimeoutError("the callback")


def by_both_after_one_that_raises() -> None:
    result, value = send(nap())
    result.then(lambda _: 1 // 0, lambda error: None)
    result.then(lambda _: [][1])
    called = call_back(result, value)
    get(result, value)
    if not called.wait(PATIENCE):
        raise TimeoutError("the callback")


def by_many_of_whom_one_is_killed() -> None:
    result, value = send(nap())
    victim = book.waits(result.id, value)

    def wait() -> None:
        book.got(victim, app.AsyncResult(result.id).get(timeout=PATIENCE))

    killed = spawn(wait)
    called = call_back(app.AsyncResult(result.id), value)
    threading.Event().wait(random.random() / 5)
    book.kills(victim)
    kill(killed)
    get(app.AsyncResult(result.id), value)
    if not called.wait(PATIENCE):
        raise TimeoutError("the callback")


def by_group() -> None:
    members = [nap() for _ in range(5)]
    results = group(members)()
    waiters = []
    for result, member in zip(results, members):
        book.sent(result.id)
        waiters.append(book.waits(result.id, member.args[1]))
    for waiter, value in zip(waiters, results.get(timeout=PATIENCE)):
        book.got(waiter, value)


def by_further_tries() -> None:
    result, value = send(nap())
    waiter = book.waits(result.id, value)
    for _ in range(PATIENCE * 10):
        try:
            book.got(waiter, result.get(timeout=0.1))
        except TimeoutError:
            continue
        return
    raise TimeoutError("all tries")


def by_failure() -> None:
    value = uuid()
    result = app.tasks["fail"].delay(value)
    book.sent(result.id)
    waiter = book.waits(result.id, value)
    called = threading.Event()

    def note(error: BaseException) -> None:
        book.got(waiter, str(error))
        called.set()

    result.then(print, note)
    if not called.wait(PATIENCE):
        raise TimeoutError("on_error")


WAYS = (
    by_get,
    by_callback,
    by_both_after_one_that_raises,
    by_many_of_whom_one_is_killed,
    by_group,
    by_further_tries,
    by_failure,
)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """``/`` is a request as any; ``/state`` tells what the process holds."""
    answer: dict[str, Any] = {"pid": os.getpid()}
    if environ["PATH_INFO"] == "/state":
        statistics = app.backend.result_consumer.statistics()
        answer.update(pending=statistics.pending, loops=drain_loops(green=True))
    else:
        way = random.choice(WAYS)
        try:
            way()
        except Exception as exc:
            answer["error"] = f"{way.__name__}: {exc!r}"
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
