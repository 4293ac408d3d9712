"""The current task in what it has started: greenlets and threads, in all pools of a worker."""

from __future__ import annotations

import gc
import subprocess
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, current_task, uuid
from celery.result import allow_join_result

from celery_green_drain import TaskContextError, context, copy_current_task_context

from . import tasks
from .green import GREEN, crowd, spawn, wait_until
from .program import command
from .servers import UNMEASURED, RedisServer, Worker


def make_task(app: Celery, function: Callable[..., Any]) -> Any:
    return app.task(bind=True, shared=False, name=f"tests.{uuid()}")(function)


def run(app: Celery, function: Callable[..., Any], task_id: str | None = None) -> Any:
    """Run *function* as a task, here, as a worker does."""
    task = make_task(app, function)
    with allow_join_result():
        return task.apply(task_id=task_id or uuid()).get()


# -- here


def test_an_app_leaves_no_finaliser_to_celerys_signals() -> None:
    def finalisers() -> int:
        return sum(type(thing) is weakref.finalize for thing in gc.get_objects())

    context.know_running_tasks()
    before = finalisers()
    for _ in range(5):
        context.know_running_tasks()
    assert finalisers() == before


def test_without_it_there_is_nothing(app: Celery) -> None:
    def task(self: Any) -> Any:
        return crowd(1, lambda _: (bool(current_task), self.request.id))

    assert run(app, task) == [(False, None)]


def test_with_it_there_is_the_task(app: Celery) -> None:
    task_id = uuid()

    def task(self: Any, *args: Any) -> None:
        @copy_current_task_context
        def child(number: int) -> None:
            assert current_task == self
            assert current_task.request.id == self.request.id == task_id
            assert not self.request.called_directly
            self.update_state(state="PROGRESS", meta={"number": number})
            assert app.AsyncResult(task_id).info == {"number": number}

        for number in range(3):
            assert crowd(1, lambda _: child(number)) == [None]  # noqa: B023

    run(app, task, task_id)


def test_arguments_result_name_and_errors_are_the_functions(app: Celery) -> None:
    def task(self: Any) -> None:
        @copy_current_task_context
        def divide(x: int, *, by: int) -> float:
            """Divide."""
            return x / by

        assert (divide.__name__, divide.__doc__) == ("divide", "Divide.")
        assert divide(6, by=3) == 2
        with pytest.raises(ZeroDivisionError):
            divide(6, by=0)
        assert current_task == self

    run(app, task)


def test_what_a_child_starts_is_the_childs_of_the_task(app: Celery) -> None:
    """As in the task itself: the result tree, and the ids of parent and root."""

    def task(self: Any) -> Any:
        @copy_current_task_context
        def child(_: int) -> Any:
            return self.app.tasks["add"].apply_async((1, 1)).id

        (started,) = crowd(1, child)
        assert [result.id for result in self.request.children] == [started]
        return started

    run(app, task)


def test_another_task_in_a_child(app: Celery) -> None:
    """It has its own context meanwhile, and leaves the copied one as it was."""

    def task(self: Any) -> None:
        outer = self.request.id

        @copy_current_task_context
        def child(_: int) -> None:
            inner = uuid()

            def other(self: Any) -> None:
                assert self.request.id == current_task.request.id == inner
                copied = copy_current_task_context(lambda _: current_task.request.id)
                assert crowd(1, copied) == [inner]

            run(app, other, inner)
            assert self.request.id == current_task.request.id == outer

        assert crowd(1, child) == [None]

    run(app, task)


def test_many_at_once_of_many_tasks(app: Celery) -> None:
    def task(self: Any) -> None:
        gate = threading.Event()

        @copy_current_task_context
        def child(number: int) -> Any:
            gate.set() if number == 4 else gate.wait(20)
            return self.request.id, current_task.request.id

        assert crowd(5, child) == [(self.request.id, self.request.id)] * 5

    assert crowd(10, lambda _: run(app, task)) == [None] * 10


def test_nothing_stays_in_the_childs_greenlet(app: Celery) -> None:
    def task(self: Any) -> None:
        copied = copy_current_task_context(lambda: self.request.id)

        def child(_: int) -> None:
            assert copied() == self_id
            assert not current_task
            assert self.request.id is None

        self_id = self.request.id
        assert crowd(1, child) == [None]

    run(app, task)


def test_outside_of_a_task() -> None:
    with pytest.raises(TaskContextError, match="where no task runs"):
        copy_current_task_context(print)


def test_after_the_task_has_returned(app: Celery) -> None:
    begun, returned = threading.Event(), threading.Event()
    outcome: list[Any] = []
    kept: list[Any] = []
    task_id = uuid()

    def task(self: Any) -> None:
        @copy_current_task_context
        def child() -> None:
            assert self.request.id == task_id
            begun.set()
            returned.wait(20)
            outcome.append(bool(current_task))
            for use in (
                lambda: current_task.name,
                lambda: current_task.request,
                lambda: self.request.id,
                lambda: self.update_state(state="PROGRESS"),
                lambda: self.update_state(task_id=task_id, state="PROGRESS"),
                lambda: copy_current_task_context(print),
                lambda: app.tasks["add"].delay(1, 1),
            ):
                try:
                    outcome.append(use())
                except TaskContextError as exc:
                    outcome.append(str(exc))
            outcome.append("ends")

        spawn(child)
        begun.wait(20)
        kept.append(copy_current_task_context(lambda: self.request.id))

    run(app, task, task_id)
    returned.set()
    wait_until(lambda: "ends" in outcome, "the child's end")
    assert outcome[0] is False
    assert len(outcome) == 9
    assert all(task_id in text and "has returned" in text for text in outcome[1:8])
    with pytest.raises(TaskContextError, match="has returned"):  # begun afterwards
        kept[0]()


def test_a_task_that_is_called_as_a_function(app: Celery) -> None:
    """As in somebody's unit tests."""

    def task(self: Any) -> Any:
        return crowd(1, copy_current_task_context(lambda _: current_task.name))

    called = make_task(app, task)
    assert called() == [called.name]


def test_no_task_is_kept(app: Celery) -> None:
    def task(self: Any) -> None:
        crowd(1, copy_current_task_context(lambda _: None))

    called = make_task(app, task)
    for _ in range(5):
        run(app, task)
        called()
    wait_until(lambda: gc.collect() >= 0 and not context.lives, "the end of all requests")


def test_the_private_names_of_celery_are_there() -> None:
    """Without them ``current_task`` is empty in a child: look for their successors."""
    from celery import _state

    assert context.push_current_task is _state.push_current_task
    assert context.pop_current_task is _state.pop_current_task


def test_without_the_private_names_of_celery() -> None:
    script = subprocess.run(
        command("without_private_names"),
        env={**UNMEASURED, "TESTS_MODE": "unpatched"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert script.stdout.strip() == "[('known', False)]", script.stderr


# -- where the worker has the setting


@pytest.mark.kinds("redis", "rpc, memory")
def test_children_that_know_the_id_alone(app: Celery) -> None:
    """They need no wrapper. On rpc the requests of running tasks are known by their ids."""
    task_id = uuid()
    seen: list[Any] = []
    if hasattr(app.backend, "client"):  # its workers are stock, so run it here
        refused = run(app, tasks.reporting, task_id)
        assert app.AsyncResult(task_id).state == "PROGRESS"
    else:
        result = app.tasks["reporting"].apply_async(task_id=task_id)
        refused = result.get(timeout=30, on_message=seen.append)
        children = {each["result"]["child"] for each in seen if each["status"] == "PROGRESS"}
        assert children == {0, 1, 2}
    assert "TaskContextError: update_state() was called without a task id" in refused
    assert "task_id = self.request.id" in refused
    assert "copy_current_task_context()" in refused
    assert task_id not in context.running


def test_a_task_that_is_called_as_a_function_may_report(make: Callable[..., Celery]) -> None:
    """For nobody, as with stock Celery on rpc."""
    app = make(broker="memory://", results="rpc://")

    def report(self: Any) -> None:
        self.update_state(state="PROGRESS", meta={})

    assert make_task(app, report)() is None


# -- in a worker


POOLS = ("prefork", "threads", "gevent", "eventlet")


@pytest.fixture(scope="module", params=["redis", "rpc, redis", "rpc, rabbitmq"])
def urls(request: pytest.FixtureRequest, results: RedisServer) -> tuple[str, str]:
    """The broker, and the result backend, of the worker and of who asks: Celery's own."""
    broker = request.getfixturevalue("rabbit" if "rabbitmq" in request.param else "broker")
    return broker.url(), "rpc://" if "rpc" in request.param else results.url("worker")


@pytest.fixture(scope="module", params=POOLS)
def pool(request: pytest.FixtureRequest, urls: tuple[str, str]) -> Iterator[Worker]:
    """A worker with that pool, and a queue of that name.

    RabbitMQ confirms what it takes, or the end of a task could overtake a state that another
    connection has sent.
    """
    confirmed = urls[0].startswith("amqp")
    worker = Worker(*urls, persistent=confirmed, pool=request.param, queue=request.param)
    yield worker
    worker.end()


@pytest.fixture
def client(
    request: pytest.FixtureRequest, urls: tuple[str, str], make: Callable[..., Celery]
) -> Celery:
    queue = request.node.callspec.params["pool"]
    return make(broker=urls[0], results=urls[1], task_default_queue=queue, result_drainer=None)


in_a_worker = pytest.mark.skipif(
    GREEN, reason="the worker is a process of its own, whatever has patched this one"
)


@in_a_worker
@pytest.mark.usefixtures("pool")
def test_children_in_a_worker(client: Celery) -> None:
    seen: list[Any] = []
    result = client.tasks["branching"].apply_async((4,), countdown=1)
    ids = result.get(timeout=30, on_message=seen.append)
    assert ids == [[["branching", result.id, result.id]] * 2] * 4
    reported = {message["result"]["leaf"] for message in seen if message["status"] == "PROGRESS"}
    assert reported == set(range(8))


@in_a_worker
def test_a_child_that_is_left_behind_in_a_worker(client: Celery, pool: Worker) -> None:
    task_id = client.tasks["leaving"].delay().id

    def told() -> list[str]:
        lines = pool.process.output().splitlines()
        return [line.partition(task_id)[2] for line in lines if f"{task_id} " in line]

    wait_until(lambda: " ends" in told(), "the child's end")
    by_name = [text.split(":")[0].strip() for text in told() if "has returned" in text]
    assert by_name == ["current_task", "request", "update_state", "copy"]
