"""What stands in for ``on_ready``: the callbacks of a result, and of a group of results.

``AsyncResult.then()`` and Celery's groups chain to a result's promise ``on_ready``. Ours
takes its place, so that a user's callback runs outside of the drain loop, alone, in the
context that called ``then()``, while the barriers that count a group's members are
served inside, where nobody else counts at the same time.

A barrier alone asks for nothing: sending a group subscribes to its members only once
somebody waits for the group.
"""

from __future__ import annotations

import contextvars
import logging
import weakref
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import states
from celery.result import ResultSet
from vine import barrier, promise
from vine.abstract import Thenable

from .django import close_old_connections
from .errors import ResultNeverCame
from .results import known, leaves, make_known

if TYPE_CHECKING:
    from .consumers.base import ResultConsumer
    from .pending import Meta, PendingTable, Wait

__all__ = ("PendingResult", "PendingSet")

logger = logging.getLogger(__name__)


class Callback:
    """A user's callback, with the context that it was given in."""

    __slots__ = ("_context", "target")

    def __init__(self, target: Any) -> None:
        #: A vine promise, or another thenable of the user's.
        self.target = target
        self._context = contextvars.copy_context()

    def run(self, name: str, error: BaseException | None, *args: Any) -> None:
        """Call it with *args*, in this greenlet. What it raises is logged, and reaches nobody else.

        :param name: what the log calls the result.
        :param error: the exception of a failed task, for ``on_error``.
        """
        self._context.run(self._run, name, error, args)

    def _run(self, name: str, error: BaseException | None, args: tuple[Any, ...]) -> None:
        try:
            try:
                if error is not None and getattr(self.target, "on_error", None):
                    # Those that are chained to it are told as well.
                    self.target.throw(error, propagate=False)
                elif not isinstance(error, ResultNeverCame):
                    self.target(*args)
            finally:
                # As Celery does after a task: a callback is no request, so Django does not do it.
                close_old_connections()
        except Exception:
            logger.exception("A callback of %s raised.", name)


class Promise:
    """The interface of a vine promise, as Celery uses it on ``on_ready``."""

    __slots__ = ("__weakref__", "_barriers", "_callbacks", "_keep", "_ref", "consumer", "ready")

    def __init__(self, result: Any, consumer: ResultConsumer) -> None:
        self.consumer = consumer
        self.ready = False
        self._ref = weakref.ref(result)
        self._keep: Any = None
        self._callbacks: list[Callback] = []
        self._barriers: list[barrier] = []

    def then(self, callback: Any, on_error: Any = None) -> Any:
        """Call *callback* with the result once it is ready, in a greenlet of its own.

        :param on_error: called instead, with its exception, where the task has failed.
        :return: the callback as a promise, to chain further ones to.
        """
        if isinstance(callback, barrier):
            self._join(callback)
            return callback
        target = _thenable(callback, on_error)
        self._callbacks.append(Callback(target))
        if not self.ready:
            self.serve(keep=True)
        if self.ready:  # by now perhaps by another thread, which may have looked before the append
            self._call_all(self._ref())
        return target

    def throw(self, exc: Any = None, tb: Any = None, propagate: bool = True) -> None:
        """Raise the exception of a failed task; callbacks have been told by then."""
        raise exc.with_traceback(tb)

    def cancel(self) -> None:
        """Call nothing any more."""
        self._keep = None
        self._callbacks.clear()
        self._barriers.clear()

    @property
    def listeners(self) -> list[Any]:
        return [callback.target for callback in self._callbacks] + self._barriers

    def serve(self, keep: bool) -> None:
        """Somebody waits for it now: see that it comes, and *keep* the result until then."""
        raise NotImplementedError("subclass responsibility")

    def _join(self, waiting: barrier) -> None:
        self._barriers.append(waiting)
        Gate.of(waiting, self.consumer).add(self)
        if self.ready:
            self._call_all(self._ref())

    def _call_all(self, result: Any) -> None:
        if not (self._barriers or self._callbacks):
            return
        # Taken one by one, so that two threads here at once call nothing twice.
        for waiting in _taken(self._barriers):
            # In the loop, as a barrier counts wrong where two count at once.
            self.consumer.in_loop(Gate.of(waiting, self.consumer).count, waiting, result)
        if result is None or not self._callbacks:
            return
        error = self._error(result)
        for callback in _taken(self._callbacks):
            self.consumer.call(callback.run, self._name(result), error, result)

    def _error(self, result: Any) -> BaseException | None:
        raise NotImplementedError("subclass responsibility")

    def _name(self, result: Any) -> str:
        raise NotImplementedError("subclass responsibility")


def _thenable(callback: Any, on_error: Any) -> Any:
    return callback if isinstance(callback, Thenable) else promise(callback, on_error=on_error)


def _failure(result: Any) -> BaseException | None:
    """What a result that is ready has failed with. Asks nobody, as this is the drain loop."""
    pending = result.on_ready
    if isinstance(pending, PendingResult) and pending.error is not None:
        return pending.error
    meta = known(result)
    return meta["result"] if meta and meta["status"] in states.PROPAGATE_STATES else None


def _taken(items: list[Any]) -> Iterator[Any]:
    while items:
        try:
            yield items.pop(0)
        except IndexError:
            return


@Thenable.register
class PendingResult(Promise):
    """What one ``AsyncResult`` has to serve until it is ready: its waits and callbacks."""

    __slots__ = ("_served", "error", "listed", "table", "task_id", "waits", "weak")

    def __init__(self, result: Any, consumer: ResultConsumer) -> None:
        super().__init__(result, consumer)
        self.task_id: str = result.id
        #: Where it belongs. After a fork the child has a table of its own.
        self.table: PendingTable = consumer.table
        #: Whether it stands in that table. Set by the drain loop alone.
        self.listed = False
        #: Who is in ``get()`` for it: an ordered set.
        self.waits: dict[Wait, None] = {}
        #: What made the result unreadable, if something did.
        self.error: Exception | None = None
        #: Whether callbacks are not to keep the result alive.
        self.weak = False
        self._served = False

    @property
    def wanted(self) -> bool:
        """Whether somebody still asks for it."""
        return bool(self.waits) or (self._served and self._ref() is not None)

    def serve(self, keep: bool) -> None:
        result = self._ref()
        if getattr(result, "ignored", False):
            logger.warning(
                "Task %s ignores its result, so no callback will be called for it.", self.task_id
            )
            return
        if keep and not self.weak:
            self._keep = result
        self._served = True
        self.consumer.want(self)

    def forget(self) -> None:
        """The result was forgotten, or is being finalised: neither lock nor switch."""
        self._keep = None
        self._callbacks.clear()
        if self._served or self.listed:
            self._served = False
            self.consumer.drop(self)

    def __call__(self, result: Any) -> None:
        """The result is ready: what ``AsyncResult`` calls, whoever found it out."""
        if not self.ready:
            self._finish(result)

    def resolve(self, meta: Meta) -> None:
        """The result has come, with the last state *meta*."""
        result = self._ref()
        if result is None or self.ready:
            return
        try:
            make_known(result, meta)
        except Exception as exc:
            # Such as children that are none, or an exception class that is refused.
            self.consumer.cannot_read(self.task_id, exc)
            self.fail(exc)
        if not self.ready:  # on_ready is another promise by now
            self._finish(result)

    def fail(self, error: Exception) -> None:
        """The result cannot be read, or will never come."""
        if not self.ready:
            self.error = error
            self._finish(self._ref())

    @property
    def last(self) -> Meta | None:
        """The last state; None: it is not ready, or was forgotten.

        A result that cannot be read is a failure.
        """
        if self.error is not None:
            return {"task_id": self.task_id, "status": states.FAILURE, "result": self.error}
        result = self._ref()
        meta: Meta | None = None if result is None else known(result)
        return meta

    def _finish(self, result: Any) -> None:
        self.ready = True  # before the lists are read: who adds to them looks at it afterwards
        self._keep = None
        for wait in tuple(self.waits):
            wait.put(self, None)
        self._call_all(result)
        if self.listed:
            self.consumer.drop(self)

    def _error(self, result: Any) -> BaseException | None:
        return self.error or _failure(result)

    def _name(self, result: Any) -> str:
        return f"task {self.task_id}"


@Thenable.register
class PendingSet(Promise):
    """The same for a ``ResultSet`` or ``GroupResult``, ready when all its members are."""

    __slots__ = ("_gate",)

    def __init__(self, result_set: ResultSet, gate: Gate) -> None:
        super().__init__(result_set, gate.consumer)
        self._gate = gate

    def serve(self, keep: bool) -> None:
        if keep:
            self._keep = self._ref()
        self._gate.serve(self)

    def __call__(self, *args: Any) -> None:
        self.ready = True
        self._call_all(self._ref())
        self._keep = None

    def _error(self, result: Any) -> BaseException | None:
        return next(filter(None, map(_failure, leaves(result))), None)

    def _name(self, result: Any) -> str:
        return f"group {result.id}" if hasattr(result, "id") else f"{len(result)} results"


class Gate:
    """Stands in for the promise inside of a barrier.

    It knows the members that the barrier counts, and has them served from the moment on
    that somebody waits for the whole.
    """

    def __init__(self, consumer: ResultConsumer) -> None:
        self.consumer = consumer
        self.ready = False
        self._open = False
        #: What has come before anybody listened: a barrier that is still being made counts wrong.
        self._early: list[tuple[barrier, Any]] = []
        self._members: list[weakref.ref[Promise]] = []
        self._listeners: list[Any] = []
        self._served: list[PendingSet] = []

    @classmethod
    def of(cls, waiting: barrier, consumer: ResultConsumer) -> Gate:
        """The gate of a barrier; put there when its first member of ours joins."""
        if not isinstance(waiting.p, cls):
            before, waiting.p = waiting.p, cls(consumer)
            for listener in before.listeners:
                if listener is not None:
                    waiting.p.then(listener)
        gate: Gate = waiting.p
        return gate

    def add(self, member: Promise) -> None:
        self._members.append(weakref.ref(member))
        if self._open and not member.ready:
            member.serve(keep=False)

    def serve(self, pending_set: PendingSet | None = None) -> None:
        """Have all members served; keep *pending_set* until they have come."""
        if pending_set is not None and not self.ready:
            self._served.append(pending_set)
        if not self._open:
            self._open = True
            for member in filter(None, [ref() for ref in self._members]):
                if not member.ready:
                    member.serve(keep=False)

    def then(self, callback: Any, on_error: Any = None) -> None:
        result_set = _set_behind(callback)
        if result_set is None:
            self.serve()  # somebody waits for the barrier itself
        elif not isinstance(result_set.on_ready, PendingSet):
            # Fresh from Celery's constructor: nobody can have chained to it yet.
            result_set.on_ready = PendingSet(result_set, self)
        if result_set is None:
            target = Callback(_thenable(callback, on_error))
            callback = partial(self.consumer.call, target.run, "a barrier", None)
        self._listeners.append(callback)
        if self._early or self.ready:
            self.consumer.in_loop(self._attend)

    def count(self, waiting: barrier, result: Any) -> None:
        """Have the barrier count *result*: in the drain loop."""
        self._early.append((waiting, result))
        if self._listeners:
            self._attend()

    def _attend(self) -> None:
        for waiting, result in _taken(self._early):
            waiting(result)
        if self.ready:
            self()

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.ready = True
        for listener in _taken(self._listeners):
            listener(*args, **kwargs)
        self._served.clear()

    def cancel(self) -> None:
        self._listeners.clear()
        self._served.clear()

    @property
    def listeners(self) -> list[Any]:
        return self._listeners


def _set_behind(callback: Any) -> ResultSet | None:
    """The result set whose own method is to be called, as its constructor asks for."""
    bound = getattr(callback, "fun", None)
    if isinstance(bound, weakref.WeakMethod):
        bound = bound()
    owner = getattr(bound, "__self__", None)
    return owner if isinstance(owner, ResultSet) else None
