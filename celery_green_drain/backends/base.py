"""What turns a result backend of Celery into one that is served by a drainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

from celery import current_app, states
from celery.exceptions import ChordError
from celery.result import ResultSet

from .. import forks
from ..clock import monotonic
from ..consumers.base import ResultConsumer
from ..context import is_lost, know_running_tasks, without_task
from ..drainers import check
from ..internals import (
    disown_pools,
    fulfilled_by_celery,
    known,
    learn,
    leaves,
    make_known,
    result_cache,
)
from ..lateness import not_ready
from ..pending import EndWait, InboxWait, PendingResult, deadline
from ..promises import Callback, failure
from ..settings import Settings

__all__ = ("DrainedBackendMixin",)

#: Seconds that the failure of a chord is held back for the error of its header.
CAUSE = 1.0

#: Seconds between two calls of ``on_interval``, unless told otherwise.
INTERVAL = 0.5


class DrainedBackendMixin:
    """The whole of Celery's ``AsyncBackendMixin``, on pending results.

    To be mixed in before a backend class of Celery. It needs what :mod:`celery.result` calls,
    nothing of how Celery's own backends work inside.
    """

    app: Any
    url: Any
    result_consumer: ResultConsumer
    get_task_meta: Callable[[str], dict[str, Any]]
    _ensure_not_eager: Callable[[], None]

    def __init__(self, app: Any, *args: Any, **kwargs: Any) -> None:
        self.drainer_settings = settings = Settings.of(app.conf)
        check(settings.drainer or "auto", settings.name_of("drainer"))
        super().__init__(*args, app=app, **kwargs)  # type: ignore[call-arg]
        #: Celery keeps one backend for the whole process then, not one a greenlet.
        self.thread_safe = True
        forks.register(self)
        know_running_tasks()

    def after_fork_in_child(self) -> None:
        """Leave the connections that tasks are sent over to the parent as well."""
        forks.keep(*disown_pools(self.app))

    @property
    def is_async(self) -> bool:
        return True

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:
        """Nothing is sent for a result that nobody reads."""
        return {}

    def store_result(self, task_id: Any, *args: Any, **kwargs: Any) -> Any:
        """Store a state, as a task does, or what it has started.

        :raises TaskContextError: without an id, where no task is known whose state it is.
        """
        if task_id is None and is_lost():
            raise without_task("update_state()")
        return super().store_result(task_id, *args, **kwargs)  # type: ignore[misc]

    @cached_property
    def remembered(self) -> Any:
        """Results that ``result_cache_max`` has kept here, by task id; None: it is off."""
        return result_cache(self)

    # -- what is pending

    def add_pending_result(self, result: Any, weak: bool = False) -> Any:
        """Prepare *result* for callbacks and waits.

        :param weak: callbacks that are chained to it next do not keep it alive.
        """
        self.pending(result).weak = weak
        return result

    def add_pending_results(self, results: Iterable[Any], weak: bool = False) -> list[Any]:
        return [self.add_pending_result(result, weak=weak) for result in results]

    def remove_pending_result(self, result: Any) -> Any:
        """Call nothing for *result* any more. Finalisers come here: no lock, no switch."""
        pending = getattr(result, "on_ready", None)
        if isinstance(pending, PendingResult) and not pending.ready:
            pending.forget()
        return result

    def on_result_fulfilled(self, result: Any) -> None:
        """Nothing is left to do: what has come is unsubscribed from by the drainer."""

    def pending(self, result: Any) -> PendingResult:
        """What *result* has to serve until it is ready."""
        forks.notice()
        backend = self._backend_of(result)
        if backend is not self:
            return backend.pending(result)
        pending, consumer = result.on_ready, self.result_consumer
        if (
            isinstance(pending, PendingResult)
            and pending.table is consumer.table
            and (not pending.ready or known(result))
        ):
            return pending
        # The first time; or after forget(), after an unreadable result, or in a child.
        fresh = PendingResult(result, consumer)
        if not isinstance(pending, PendingResult):
            listeners = list(filter(None, pending.listeners))
            if fulfilled_by_celery(pending):
                for listener in listeners:
                    fresh.then(listener)
            elif listeners:
                fresh.then(pending)
            elif not pending.ready:
                # Somebody's own, or a subclass's: told of what comes, and it asks for nothing.
                fresh.audience.append(Callback(pending, None, consumer.figures))
        result.on_ready = fresh
        if self.remembered is not None and not known(result):
            meta = self.remembered.get(fresh.task_id)
            if meta is not None:
                learn(result, dict(meta))
        if known(result):
            fresh(result)
        return fresh

    def _backend_of(self, result: Any) -> DrainedBackendMixin:
        """Where *result* is stored: a member of a group may have a backend of its own."""
        backend = getattr(result, "backend", None)
        return backend if isinstance(backend, DrainedBackendMixin) else self

    # -- waiting

    def wait_for_pending(
        self,
        result: Any,
        callback: Callable[[str, Any], object] | None = None,
        propagate: bool = True,
        timeout: float | None = None,
        interval: float | None = None,
        on_interval: Any = None,
        on_message: Callable[[dict[str, Any]], object] | None = None,
        no_ack: bool = True,  # named, or each who waits would keep a dictionary of it
        **kwargs: Any,
    ) -> Any:
        """Wait for *result*, as ``AsyncResult.get()`` does; the arguments are those of it.

        :param timeout: seconds; 0 or less: look once whether it is there.
        :param interval: seconds between two calls of *on_interval*, default 0.5.
        :raises ValueError: where one of them is not a number.
        """
        self._ensure_not_eager()
        ticks = _ticks(on_interval)
        if timeout is not None and timeout <= 0:
            self._poll([result], on_message)
        else:
            followed = _follows(on_interval) and result.parent is not None
            if ticks or followed or on_message is not None:
                with _Waiting(self, timeout, interval, ticks, on_message) as waiting:
                    waiting.begin([result], _parents(result) if followed else ())
                    waiting.next()
            else:
                self._wait_for_end(result, timeout)
        return result.maybe_throw(callback=callback, propagate=propagate)

    def _wait_for_end(self, result: Any, timeout: float | None) -> None:
        """Wait for nothing but that: what most calls come to, and thousands at once."""
        until = deadline(timeout)  # refused before anything is registered
        pending = self.pending(result)
        EndWait(self.result_consumer, pending).end(until)
        pending.check()

    def iter_native(
        self,
        result: ResultSet,
        no_ack: bool = True,
        timeout: float | None = None,
        interval: float | None = None,
        on_interval: Any = None,
        on_message: Callable[[dict[str, Any]], object] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, Any]]:
        """Yield ``(id, meta)`` of each member as it arrives; of a nested group, its members."""
        self._ensure_not_eager()
        forks.notice()
        waited_for = []
        for node in result.results:
            if isinstance(node, ResultSet):
                yield node.id, node.results
            elif known(node):
                yield node.id, known(node)
            else:
                waited_for.append(node)
        if not waited_for:
            return
        if timeout is not None and timeout <= 0:
            for node in self._poll(waited_for, on_message):
                yield node.id, known(node)
            return
        with _Waiting(self, timeout, interval, _ticks(on_interval), on_message) as waiting:
            waiting.begin(waited_for)
            while waiting.missing:
                node = waiting.next()
                yield node.id, known(node)

    def _poll(self, results: list[Any], on_message: Any) -> Iterator[Any]:
        """The same without waiting: look at the store once.

        :raises celery.exceptions.TimeoutError: where one is not ready.
        """
        ready, missing = [], []
        for result in results:
            meta = self._backend_of(result).get_task_meta(result.id)
            if on_message is not None:
                on_message(meta)
            make_known(result, meta)
            if meta["status"] in states.READY_STATES:
                ready.append(result)
            else:
                missing.append((result, meta))
        if missing:
            raise not_ready(missing)
        return iter(ready)

    # -- pickling

    def __reduce__(self, args: Any = (), kwargs: Any = None) -> Any:
        return _restore, (super().__reduce__(args, kwargs), self.url)  # type: ignore[call-arg]


class _Waiting:
    """A call that waits for results. No generator, as a greenlet pays for each when it switches."""

    __slots__ = (
        "_backend",
        "_deadline",
        "_on_message",
        "_pause",
        "_ticks",
        "_wait",
        "_watched",
        "missing",
    )

    def __init__(
        self,
        backend: DrainedBackendMixin,
        timeout: float | None,
        interval: float | None,
        ticks: tuple[Callable[[], object], ...],
        on_message: Callable[[dict[str, Any]], object] | None,
    ) -> None:
        self._backend = backend
        self._deadline = deadline(timeout)
        self._pause = _interval(interval) if ticks else None
        self._ticks = ticks
        self._on_message = on_message
        self._wait = InboxWait(backend.result_consumer, messages=on_message is not None)
        #: What has not come so far.
        self.missing: dict[PendingResult, Any] = {}
        self._watched: dict[PendingResult, Any] = {}

    def __enter__(self) -> _Waiting:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._wait.close()

    def begin(self, results: Iterable[Any], parents: Iterable[Any] = ()) -> None:
        """Wait for *results*, and for a failure of one of *parents*."""
        for nodes, there in ((results, self.missing), (parents, self._watched)):
            for node in nodes:
                pending = self._backend.pending(node)
                there[pending] = node
                self._wait.add(pending)

    def next(self) -> Any:
        """Return the next result that is ready; raise what one of the parents failed with."""
        while True:
            arrival = self._wait.next(self._deadline, self._pause)
            if arrival is None:
                for tick in self._ticks:
                    tick()
                continue
            pending, meta = arrival
            if meta is not None:
                if self._on_message is not None and pending in self.missing:
                    self._on_message(meta)
                continue
            pending.check()
            if pending in self._watched:
                node = self._watched.pop(pending)
                self._raise_cause(node)
                node.maybe_throw()
            if pending in self.missing:
                node = self.missing.pop(pending)
                self._raise_cause(node)
                return node

    def _raise_cause(self, node: Any) -> None:
        """Where *node* is a chord whose header has failed, raise the header's own error.

        That was stored before, and so is here, or comes with it.
        """
        if not (self._watched and isinstance(failure(node), ChordError)):
            return
        until = monotonic() + CAUSE
        if self._deadline is not None:
            until = min(until, self._deadline)
        while self._watched:
            rest = until - monotonic()
            arrival = self._wait.next(tick=max(0.0, rest))
            if arrival is None or (rest <= 0 and arrival[1]):  # nothing, or no end of states
                return
            parent = None if arrival[1] else self._watched.pop(arrival[0], None)
            if parent is not None and not isinstance(failure(parent), ChordError):
                parent.maybe_throw()


def _restore(reduced: tuple[Any, ...], url: Any) -> Any:
    """Unpickle a backend: the one that the process has, if it has this one."""
    backend = current_app.backend
    if isinstance(backend, DrainedBackendMixin) and backend.url == url:
        return backend
    function, args = reduced
    return function(*args)


def _follows(on_interval: Any) -> bool:
    """Whether the parents of a result are to be watched: ``get(follow_parents=True)``.

    ``AsyncResult.get()`` says so by giving its promise a function of its own.
    """
    return getattr(on_interval, "fun", None) is not None


def _interval(interval: float | None) -> float:
    """Seconds between two calls of ``on_interval``.

    :raises ValueError: where it is not a number.
    """
    if interval is not None and math.isnan(interval):
        raise ValueError(f"interval = {interval!r}: expected a number of seconds, or None.")
    return interval or INTERVAL


def _ticks(on_interval: Any) -> tuple[Callable[[], object], ...]:
    """What is to be called after each interval.

    ``AsyncResult.get()`` wraps it in a promise, whether there is anything or not, and a
    promise calls its listeners once only.
    """
    if on_interval is None:
        return ()
    listeners = getattr(on_interval, "listeners", None)
    if listeners is None:
        return (on_interval,)
    return tuple([tick for tick in listeners if tick is not None])


def _parents(result: Any) -> Iterator[Any]:
    """The single results that come before *result* in its chain."""
    while result.parent is not None:
        result = result.parent
        yield from leaves(result)
