"""``watch(result)``: the states of a task, or of a group of tasks, as they arrive."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Optional, cast

from celery import states
from celery.exceptions import ImproperlyConfigured, TimeoutError
from celery.result import ResultBase, assert_will_not_block

from . import forks
from .backends.base import DrainedBackendMixin
from .internals import as_text, known, leaves
from .pending import UNREADABLE, Arrival, InboxWait, Meta, PendingResult, deadline
from .quoting import quoted

__all__ = ("State", "States", "follow", "watch")


@dataclass(frozen=True)
class State:
    """What became known of one task."""

    #: Whose state it is.
    task_id: str
    #: One of :mod:`celery.states`, or a name that the task has made up.
    status: str
    #: What came with it: what the task has returned, the exception that it has failed with, or
    #: the ``meta`` of its ``update_state()``.
    result: Any
    #: The worker's traceback of a failure, as text.
    traceback: str | None
    #: How many of the watched tasks have ended, this one included.
    done: int
    #: How many tasks are watched: 1, or the members of the group.
    total: int
    #: How many of those that have ended have not succeeded.
    failed: int = 0
    #: Whether the result could not be read: it is the error of that then, not one of the task.
    unreadable: bool = False

    @property
    def ready(self) -> bool:
        """Whether this task has ended, well or not."""
        return self.status in states.READY_STATES

    @property
    def last(self) -> bool:
        """Whether nothing comes after it: all watched tasks have ended."""
        return self.ready and self.done == self.total


#: None: nothing has arrived for the length of a tick.
States = Generator[Optional[State], None, None]

#: Task ids and what has come for them. None: as above.
_Arrivals = Generator[Optional[tuple[str, Meta]], None, None]


def watch(result: ResultBase, timeout: float | None = None) -> Generator[State, None, None]:
    """Yield the states of *result* as they arrive: the newest one known first, the last one last.

    A failure is a state like any other and raises nothing. A reader that is slower than the
    task misses states on the way, but neither the newest nor the last. Closing the generator
    ends the subscription.

    :param result: an ``AsyncResult``, or a ``ResultSet`` or ``GroupResult``, which yields the
        states of all its members, those of nested groups too.
    :param timeout: seconds in all, from the first step on; None: no limit. 0 or less: yield
        what the store knows now.
    :raises celery.exceptions.TimeoutError: when they have passed first.
    :raises DrainerStopped: when the drainer is stopped meanwhile.
    :raises Exception: the client's own, when the server refuses the connection.
    :raises celery.exceptions.ImproperlyConfigured: at once, where no drainer serves the backend.
    :raises TypeError: at once, where *result* is no result, such as a task id.
    :raises ValueError: at once, where a task ignores its result, or *timeout* is not a number.
    :raises RuntimeError: at once, within a task, as ``get()`` does.
    """
    return cast("Generator[State, None, None]", follow(result, timeout))


def follow(result: ResultBase, timeout: float | None = None, tick: float | None = None) -> States:
    """The same, and yield None after each *tick* seconds of silence."""
    if not isinstance(result, ResultBase):
        raise TypeError(
            f"watch() takes an AsyncResult, a ResultSet or a GroupResult, not {result!r}. "
            "For a task id there is app.AsyncResult(task_id)."
        )
    results = {as_text(node.id): node for node in leaves(result)}
    ended = {task_id: known(node) for task_id, node in results.items() if known(node)}
    waiting = [node for task_id, node in results.items() if task_id not in ended]
    if waiting:
        _check(waiting)
    deadline(timeout)  # refused at once, not with the first step
    look = timeout is not None and timeout <= 0

    def arrivals() -> _Arrivals:
        yield from ended.items()
        if waiting and look:
            yield from _look_up(waiting)
        elif waiting:
            yield from _wait_for(waiting, timeout, tick)

    return _states(arrivals(), len(results))


def _check(results: list[Any]) -> None:
    """See that *results* can be waited for; raises what :func:`watch` does."""
    assert_will_not_block()
    for result in results:
        if getattr(result, "ignored", False):
            raise ValueError(
                f"Task {quoted(result.id)} ignores its result, so its end can never be seen: call "
                "the task with ignore_result=False, or define it without ignore_result=True."
            )
        backend = result.backend
        if not isinstance(backend, DrainedBackendMixin):
            raise ImproperlyConfigured(
                f"watch() cannot follow results of {type(backend).__name__}, which is not served "
                "by a drainer: set result_drainer in the Celery configuration, such as "
                'result_drainer = "auto", before the first use of app.backend, and see that the '
                "result_backend is one that celery_green_drain serves."
            )
        backend._ensure_not_eager()


def _states(arrivals: _Arrivals, total: int) -> States:
    done: set[str] = set()
    failed = 0
    with closing(arrivals):
        for arrival in arrivals:
            if arrival is None:
                yield None
                continue
            task_id, meta = arrival
            if task_id in done:
                continue
            if meta["status"] in states.READY_STATES:
                done.add(task_id)
                failed += meta["status"] != states.SUCCESS
            yield State(
                task_id,
                meta["status"],
                meta.get("result"),
                meta.get("traceback"),
                done=len(done),
                total=total,
                failed=failed,
                unreadable=meta.get(UNREADABLE, False),
            )
            if len(done) == total:
                return


def _look_up(results: list[Any]) -> _Arrivals:
    """What the store knows now, without waiting."""
    metas: list[Meta] = []
    try:
        results[0].backend._poll(results, metas.append)
        late = None
    except TimeoutError as exc:
        late = exc
    for result, meta in zip(results, metas):
        if meta["status"] != states.PENDING:
            yield as_text(result.id), meta
    if late is not None:
        raise late


def _wait_for(results: list[Any], timeout: float | None, tick: float | None) -> _Arrivals:
    # Here *results* are kept meanwhile: one that nobody keeps is not told what has come for it.
    forks.notice()
    until = deadline(timeout)
    backend = results[0].backend
    wait = InboxWait(backend.result_consumer, messages=True, inbox=Newest())
    try:
        for result in results:
            wait.add(backend.pending(result))
        while True:
            arrival = wait.next(until, tick)
            if arrival is None:
                yield None
                continue
            pending, meta = arrival
            if meta is not None:
                yield pending.task_id, meta
    finally:
        wait.close()


class Newest:
    """An inbox of bounded size: of each result the newest state on the way, and the last."""

    def __init__(self) -> None:
        # An OrderedDict, as it takes and gives in one step each, which needs no lock.
        self._metas: OrderedDict[tuple[PendingResult, bool], Meta] = OrderedDict()

    def append(self, arrival: Arrival) -> None:
        pending, meta = arrival
        if meta is None:
            meta = pending.last
        if meta is not None:
            self._metas[pending, meta["status"] in states.READY_STATES] = meta

    def popleft(self) -> Arrival:
        (pending, _), meta = self._metas.popitem(last=False)
        return pending, meta

    def __len__(self) -> int:
        return len(self._metas)
