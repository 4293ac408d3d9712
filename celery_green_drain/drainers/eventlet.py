"""The drainer for eventlet: nothing but eventlet's primitives."""

from __future__ import annotations

import selectors
from collections.abc import Callable
from contextlib import closing
from typing import Any

import eventlet
from celery.backends.asynchronous import register_drainer
from eventlet import hubs, patcher
from eventlet.event import Event
from eventlet.green.select import select
from eventlet.green.selectors import SelectSelector
from eventlet.greenthread import GreenThread

from .. import exits
from ..django import close_connections
from ..internals import eventlet_hub
from .base import TURN, Drainer
from .callbacks import CallbackRunner
from .lanes import Lanes
from .mailbox import Mailbox
from .patching import obstacle
from .signal import Signal
from .thread import ThreadSignal

__all__ = ("EventletDrainer",)

_native = patcher.original("threading")
_native_socket = patcher.original("socket")


@register_drainer("eventlet")
class EventletDrainer(Drainer):
    """Drains in a green thread of eventlet, in the hub of the main thread."""

    name = "eventlet"
    timeouts = (eventlet.Timeout,)
    _hub: Any = None

    def __init__(self, result_consumer: Any) -> None:
        super().__init__(result_consumer)
        self._callbacks = CallbackRunner(self.spawn)

    @classmethod
    def problem(cls) -> str | None:
        return obstacle("eventlet")

    def call(self, function: Callable[..., object], *args: Any) -> None:
        self._callbacks.call(function, *args)

    @property
    def calls(self) -> int:
        return len(self._callbacks)

    def is_local(self) -> bool:
        return self.at_home() if self._hub is None else self._hub is hubs.get_hub()

    def spawn(self, function: Callable[..., object], *args: Any) -> object:
        return eventlet.spawn(function, *args)

    def lives(self, spawned: Any) -> bool:
        return spawned is not None and not spawned.dead

    def when_over(self, spawned: Any, function: Callable[[Any], object]) -> None:
        if isinstance(spawned, GreenThread):
            spawned.link(function)

    def signal(self) -> Signal:
        return EventletSignal(self.mailbox) if self.is_local() else _native_signal()

    @classmethod
    def own_signal(cls) -> Signal:
        return EventletSignal() if _in_main_thread() else _native_signal()

    def sleep(self, seconds: float) -> None:
        eventlet.sleep(seconds)

    def selector(self) -> selectors.BaseSelector:
        selector: selectors.BaseSelector = SelectSelector()
        return selector

    @classmethod
    def at_home(cls) -> bool:
        return _in_main_thread()

    @classmethod
    def lanes(cls, limit: int, native: bool = False) -> Lanes:
        return Lanes(limit, cls, _in_thread if native else None)

    def discard(self, spawned: Any) -> None:
        # A green thread exists in the child as well.
        if spawned:
            (self._hub or hubs.get_hub()).schedule_call_global(0, spawned.throw)
        elif spawned is not None and not spawned.dead:  # it has not begun, and would before that
            spawned.run = _nothing

    def _settle(self) -> None:
        if not _in_main_thread():
            raise RuntimeError(
                "The first wait for a result was made in a native thread, where eventlet's hub "
                "cannot stay: wait in the main thread first, or call "
                "app.backend.result_consumer.drainer.start() there."
            )
        self._hub = hubs.get_hub()


def _nothing(*_: object) -> None: ...


def _native_signal() -> Signal:
    # A hub cannot be woken from another thread, so that one waits natively.
    return ThreadSignal(_native.Lock())


def _in_main_thread() -> bool:
    # By the idents: in a forked child, with eventlet < 0.40.1, the current thread has no object.
    ident: int = _native.main_thread().ident
    return bool(_native.get_ident() == ident)


def _in_thread(function: Callable[[], Any]) -> Any:
    # Not eventlet's tpool: after a fork its loop runs in the child too, and takes from the parent
    # what the threads there have to tell.
    outcomes: list[Any] = []
    receiver, sender = _native_socket.socketpair()

    def run() -> None:
        outcome = function()
        close_connections()
        outcomes.append(outcome)
        sender.close()
        _end_hub()

    with closing(receiver):
        thread = _native.Thread(target=run, daemon=True, name="celery_green_drain store")
        thread.start()
        exits.register_thread(thread)
        while not outcomes:
            # In turns, as a child that is done with its copy of the hub makes this one deaf.
            select([receiver], [], [], TURN)
    return outcomes[0]


def _end_hub() -> None:
    """End the hub of a native thread that ends, or the file that it polls with stays open."""
    hub = eventlet_hub()
    if hub is not None and hub.running:
        hub.abort(wait=True)


class EventletSignal:
    """A :class:`~celery_green_drain.drainers.signal.Signal` for a green thread of this hub.

    :param mailbox: of the loop in this hub, for other threads that set it; without one, who waits
        has to look by itself.
    """

    __slots__ = ("_event", "_mailbox", "ready")

    def __init__(self, mailbox: Mailbox | None = None) -> None:
        self.ready = False
        self._event: Any = None
        self._mailbox = mailbox

    def set(self) -> None:
        if self.ready:
            return
        self.ready = True
        event = self._event
        if event is None:
            return
        if _in_main_thread():
            _send(event)
        elif self._mailbox is not None:
            # Another thread cannot wake this one's hub, but the loop in it.
            self._mailbox.post(_send, event)

    def wait(self, timeout: float | None = None) -> bool:
        if self.ready:
            return True
        self._event = event = Event()
        if self.ready:  # set by another thread just before, which has not seen the event
            return True
        if timeout is None:
            event.wait()
            return self.ready
        # Not the event's own timer, which keeps a green thread that is killed here, with all that
        # it holds, until the time is up.
        timer = hubs.get_hub().schedule_call_global(timeout, _send, event)
        try:
            event.wait()
        finally:
            timer.cancel()
        return self.ready


def _send(event: Event) -> None:
    if not event.ready():
        event.send()
