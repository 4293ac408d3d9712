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
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from inspect import CO_COROUTINE
from typing import Any, Protocol

from celery import states
from celery.exceptions import TaskError
from celery.result import ResultSet
from celery.utils.dispatch import Signal
from vine import barrier, promise
from vine.abstract import Thenable

from . import forks
from .copies import own_error
from .django import close_old_connections
from .errors import ResultNeverCame
from .figures import Figures
from .internals import known, leaves
from .quoting import quoted
from .signals import callback_raised

__all__ = ("Loop", "PendingSet", "Promise", "Waiter", "failure", "known_failure")

logger = logging.getLogger(__name__)


class Loop(Protocol):
    """What promises need of the drain loop; a result consumer is one."""

    figures: Figures

    @property
    def failures(self) -> tuple[type[BaseException], ...]:
        """What a callback raises that has failed. All else ends the greenlet, or the process."""

    def in_loop(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function(*args)`` in the drain loop, at its next turn. It must not block."""

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function(*args)`` beside the drain loop."""

    def tell(self, signal: Signal, **arguments: Any) -> None:
        """Send *signal*, beside the drain loop, to whoever listens."""


class Chained(Protocol):
    """What a callback is chained to."""

    loop: Loop

    def name(self, result: Any) -> str:
        """What the log calls it, with its *result*."""


class Callback(promise):
    """A user's callback as the promise that ``then()`` returns, or a thenable of the user's own.

    It has the context that it was given in, and is for the process that gave it.

    :raises TypeError: where *callback* cannot be called, or returns a coroutine.
    """

    __slots__ = ("_context", "_figures", "_thenable")

    def __init__(self, callback: Any, on_error: Any, figures: Figures) -> None:
        is_thenable = isinstance(callback, Thenable)
        if not (is_thenable or callback is None or callable(callback)):
            raise TypeError(f"callback = {callback!r:.100}: expected a function.")
        for name, function in (("callback", callback), ("on_error", on_error)):
            if function is not None and _is_coroutine_function(function):
                raise TypeError(
                    f"{name} = {function!r:.100} is a coroutine function, which nobody would "
                    "await: give a plain function."
                )
        super().__init__(None if is_thenable else callback, on_error=on_error)
        self._thenable = callback if is_thenable else None
        self._context = contextvars.copy_context()
        #: Those of the process: a child has others.
        self._figures = figures

    @property
    def target(self) -> Any:
        """What is called, and what further callbacks are chained to."""
        return self if self._thenable is None else self._thenable

    def run(self, of: Chained, error: BaseException | None, *args: Any) -> None:
        """Call it with *args*, in this greenlet. What it raises is logged, and reaches nobody else.

        :param of: what it is chained to.
        :param error: the exception of a failed task, for ``on_error``.
        """
        # Greenlets exist in a forked child as well: what is on its way there is its parent's.
        forks.notice()
        figures = of.loop.figures
        if figures is not self._figures or not self._is_called(error):
            return
        raised: BaseException | None = None
        figures.callback_begins(self)
        try:
            raised = self._context.run(self._run, of, error, args)
        finally:  # also where it is killed
            figures.callback_over(self, raised is not None)
        if raised is not None:
            of.loop.tell(callback_raised, name=of.name(*args), exception=raised)

    def _is_called(self, error: BaseException | None) -> bool:
        # A failed task is a result. One that never came is told to who asked for errors.
        return not isinstance(error, ResultNeverCame) or bool(
            getattr(self.target, "on_error", None)
        )

    def _run(
        self, of: Chained, error: BaseException | None, args: tuple[Any, ...]
    ) -> BaseException | None:
        target = self.target
        try:
            try:
                if error is None:
                    target(*args)
                elif getattr(target, "on_error", None):
                    # Those that are chained to it are told as well.
                    target.throw(error, propagate=False)
                else:
                    target(*args)
            finally:
                # As Celery does after a task: a callback is no request, so Django does not do it.
                close_old_connections()
        except of.loop.failures as exc:
            logger.exception("A callback of %s raised.", of.name(*args))
            return exc
        return None


def _is_coroutine_function(function: Any) -> bool:
    # That of ``inspect`` raises for a mock of a function.
    flags = getattr(getattr(function, "__code__", None), "co_flags", None)
    return isinstance(flags, int) and bool(flags & CO_COROUTINE)


class Waiter:
    """Somebody who waits for a promise, and is told in the drain loop itself."""

    __slots__ = ()

    def put(self, promise: Any, state: Any) -> None:
        """*promise* is ready; or *state*, where it is not None, has come for it on the way."""
        raise NotImplementedError("subclass responsibility")


class Promise:
    """The interface of a vine promise, as Celery uses it on ``on_ready``."""

    __slots__ = (
        "__weakref__",
        "_keep",
        "_ref",
        "audience",
        "error",
        "loop",
        "ready",
    )

    def __init__(self, result: Any, loop: Loop) -> None:
        self.loop = loop
        self.ready = False
        #: What made the result unreadable, if something did.
        self.error: Exception | None = None
        self._ref = weakref.ref(result)
        self._keep: Any = None
        #: Who is to be told, in order: callbacks, barriers, and waits, see :mod:`~.pending`. One
        #: list for all, as most have one of them, and there may be a million such lists. Anybody
        #: appends, in any thread, and looks at ``ready`` afterwards.
        self.audience: list[Any] = []

    def then(self, callback: Any, on_error: Any = None) -> Any:
        """Call *callback* with the result once it is ready, beside the drain loop.

        :param on_error: called instead, with its exception, where the task has failed.
        :return: the callback as a promise, to chain further ones to.
        :raises RuntimeError: where the drain loop cannot be started. Nothing is called then.
        """
        if isinstance(callback, barrier):
            self._join(callback)
            return callback
        chained = Callback(callback, on_error, self.loop.figures)
        self.audience.append(chained)
        if not self.ready:
            try:
                self.serve(keep=True)
            except BaseException:
                self.leave(chained)  # or it would be called twice, once it is given again
                raise
        if self.ready:  # by now perhaps by another thread, which may have looked before the append
            self._tell_all(self._ref())
        return chained.target

    def throw(self, exc: Any = None, tb: Any = None, propagate: bool = True) -> None:
        """Raise the exception of a failed task; callbacks have been told by then."""
        if exc is None:
            exc = _unnamed(self.name(self._ref()), exc)
        # A copy, as this one is in the result, for whoever else asks it.
        raise own_error(exc).with_traceback(tb)

    def cancel(self) -> None:
        """Call nothing any more."""
        self._keep = None
        self._dismiss(Callback, barrier)

    def _dismiss(self, *kinds: type) -> None:
        for who in self.audience.copy():
            if isinstance(who, kinds):
                self.leave(who)

    def leave(self, who: Any) -> None:
        """Tell *who* nothing any more. Without effect where it was told."""
        if who in self.audience:
            with suppress(ValueError):  # told just now
                self.audience.remove(who)

    @property
    def listeners(self) -> list[Any]:
        return [
            who.target if isinstance(who, Callback) else who
            for who in self.audience.copy()
            if isinstance(who, (Callback, barrier))
        ]

    def serve(self, keep: bool) -> None:
        """Somebody waits for it now: see that it comes, and *keep* the result until then."""
        raise NotImplementedError("subclass responsibility")

    def _join(self, waiting: barrier) -> None:
        self.audience.append(waiting)
        Gate.of(waiting, self.loop).add(self)
        if self.ready:
            self._tell_all(self._ref())

    def _tell_all(self, result: Any) -> None:
        error, looked = None, False
        failed: Exception | None = None
        audience = self.audience
        while audience:
            # As _taken() does, which would make a generator for each result: one by one, so that
            # two threads here at once call nothing twice.
            try:
                who = audience.pop(0)
            except IndexError:
                return
            try:
                if isinstance(who, Waiter):
                    who.put(self, None)
                elif not isinstance(who, Callback):
                    # In the loop, as a barrier counts wrong where two count at once.
                    self.loop.in_loop(Gate.of(who, self.loop).count, who, result)
                elif result is not None:
                    if not looked:  # once for all, as that of a group asks each of its members
                        error, looked = self._error(result), True
                    own = None if error is None else own_error(error)
                    self.loop.call(who.run, self, own, result)
            except Exception as exc:  # such as one of what a task has stored, and the others wait
                failed = failed or exc
        if failed is not None:
            raise failed

    def _error(self, result: Any) -> BaseException | None:
        raise NotImplementedError("subclass responsibility")

    def name(self, result: Any) -> str:
        """What the log calls it."""
        raise NotImplementedError("subclass responsibility")


def failure(result: Any) -> BaseException | None:
    """What a result that is ready has failed with. Asks nobody, as this is the drain loop."""
    pending = result.on_ready
    if isinstance(pending, Promise) and pending.error is not None:
        return pending.error
    return known_failure(result)


def known_failure(result: Any) -> BaseException | None:
    """The same, where the result could be read."""
    meta = known(result)
    if not meta or meta["status"] not in states.PROPAGATE_STATES:
        return None
    error = meta["result"]
    return (
        error if isinstance(error, BaseException) else _unnamed(f"task {quoted(result.id)}", error)
    )


def _unnamed(name: str, value: object) -> TaskError:
    """The error of a task that has failed by its state, and names no exception."""
    return TaskError(
        f"{name[0].upper()}{name[1:]} has failed and stored {value!r}, which is no exception, as "
        "update_state(state='FAILURE') may: raise in the task, or use a state of your own."
    )


def _taken(items: list[Any]) -> Iterator[Any]:
    while items:
        try:
            yield items.pop(0)
        except IndexError:
            return


@Thenable.register
class PendingSet(Promise):
    """The same for a ``ResultSet`` or ``GroupResult``, ready when all its members are."""

    __slots__ = ("_gate",)

    def __init__(self, result_set: ResultSet, gate: Gate) -> None:
        super().__init__(result_set, gate.loop)
        self._gate = gate

    def then(self, callback: Any, on_error: Any = None) -> Any:
        forks.notice()
        return super().then(callback, on_error)

    def serve(self, keep: bool) -> None:
        before = self._keep
        if keep:
            self._keep = self._ref()
        try:
            self._gate.serve(self)
        except BaseException:
            self._keep = before
            raise

    def __call__(self, *args: Any) -> None:
        self.ready = True
        self._tell_all(self._ref())
        self._keep = None

    def _error(self, result: Any) -> BaseException | None:
        errors = (failure(leaf) for leaf in leaves(result))
        return next((error for error in errors if error is not None), None)

    def name(self, result: Any) -> str:
        return f"group {quoted(result.id)}" if hasattr(result, "id") else f"{len(result)} results"


class Gate:
    """Stands in for the promise inside of a barrier.

    It knows the members that the barrier counts, and has them served from the moment on
    that somebody waits for the whole. A group of two, from its making to its callback:

    1. Celery makes a barrier for the group, and chains it to the promise of each member
       (``Promise.then``). The first member puts this gate into the barrier; each is added to it.
    2. Celery's ``ResultSet`` chains itself to the barrier, which chains it to this gate
       (:meth:`then`). Nobody waits for it so far, so nothing is asked for.
    3. Somebody calls ``group.then(callback)``. The :class:`PendingSet` of the group opens the gate
       (:meth:`serve`), and both members are asked for.
    4. A member is ready. In the drain loop the gate has the barrier count it (:meth:`count`); what
       comes before step 2 is kept until then, as a barrier that is still being made counts wrong.
    5. The other one is ready as well. The barrier is full and calls the gate, the gate calls the
       result set, and the result set's promise the callback, beside the loop.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.ready = False
        #: The figures of the process in which the members are asked for: a child asks anew.
        self._open: Figures | None = None
        #: What has come before anybody listened: a barrier that is still being made counts wrong.
        self._early: list[tuple[barrier, Any]] = []
        self._members: list[weakref.ref[Promise]] = []
        self._listeners: list[Any] = []
        self._served: list[PendingSet] = []

    @classmethod
    def of(cls, waiting: barrier, loop: Loop) -> Gate:
        """The gate of a barrier; put there when its first member of ours joins."""
        if not isinstance(waiting.p, cls):
            before, waiting.p = waiting.p, cls(loop)
            for listener in before.listeners:
                if listener is not None:
                    waiting.p.then(listener)
        gate: Gate = waiting.p
        return gate

    def add(self, member: Promise) -> None:
        self._members.append(weakref.ref(member))
        if self._open is self.loop.figures and not member.ready:
            member.serve(keep=False)

    def serve(self, pending_set: PendingSet | None = None) -> None:
        """Have all members served; keep *pending_set* until they have come."""
        if self._open is not self.loop.figures:
            before, self._open = self._open, self.loop.figures
            try:
                for member in filter(None, [ref() for ref in self._members]):
                    if not member.ready:
                        member.serve(keep=False)
            except BaseException:
                self._open = before
                raise
        if pending_set is not None and not self.ready:
            self._served.append(pending_set)

    def then(self, callback: Any, on_error: Any = None) -> None:
        result_set = _set_behind(callback)
        if result_set is None:
            self.serve()  # somebody waits for the barrier itself
        elif not isinstance(result_set.on_ready, PendingSet):
            before, result_set.on_ready = result_set.on_ready, PendingSet(result_set, self)
            # Somebody may have chained to it while the set was empty.
            for listener in filter(None, before.listeners):
                result_set.on_ready.then(listener)
        if result_set is None:
            forks.notice()
            chained = Callback(callback, on_error, self.loop.figures)
            callback = partial(self.loop.call, chained.run, self, None)
        self._listeners.append(callback)
        if self._early or self.ready:
            self.loop.in_loop(self._attend)

    def name(self, result: Any = None) -> str:
        return "a barrier"

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
