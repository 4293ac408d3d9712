"""The drainer for eventlet: nothing but eventlet's primitives."""

from __future__ import annotations

import selectors
import sys
from collections.abc import Callable
from typing import Any

import eventlet
from celery.backends.asynchronous import register_drainer
from eventlet import hubs, patcher
from eventlet.event import Event
from eventlet.green.selectors import SelectSelector

from .base import Drainer, Signal
from .crew import Crew
from .thread import ThreadSignal

__all__ = ("EventletDrainer",)

_native = patcher.original("threading")


@register_drainer("eventlet")
class EventletDrainer(Drainer):
    """Drains in a green thread of eventlet, in the hub of the main thread."""

    name = "eventlet"
    _hub: Any = None
    loop: Any

    def __init__(self, result_consumer: Any) -> None:
        super().__init__(result_consumer)
        self._crew = Crew(self.spawn)

    @classmethod
    def problem(cls) -> str | None:
        patched = sys.modules.get("eventlet.patcher")
        if patched is not None and patched.is_monkey_patched("socket"):
            return None
        return (
            "this process is not patched by eventlet: call eventlet.monkey_patch() before "
            "anything else is imported"
        )

    def call(self, function: Callable[..., object], *args: Any) -> None:
        self._crew.call(function, *args)

    def is_local(self) -> bool:
        return self._hub is None or self._hub is hubs.get_hub()

    def spawn(self, function: Callable[..., object], *args: Any) -> object:
        return eventlet.spawn(function, *args)

    def signal(self) -> Signal:
        if self.is_local():
            return EventletSignal()
        # A hub cannot be woken from another thread, so that one waits natively.
        return ThreadSignal(_native.Lock())

    def sleep(self, seconds: float) -> None:
        eventlet.sleep(seconds)

    def selector(self) -> selectors.BaseSelector:
        selector: selectors.BaseSelector = SelectSelector()
        return selector

    def abandon(self) -> None:
        super().abandon()
        if self._hub is not None and self.loop:
            # It exists in the child as well, and must not run there.
            self._hub.schedule_call_global(0, self.loop.throw)

    def _settle(self) -> None:
        if _native.current_thread() is not _native.main_thread():
            raise RuntimeError(
                "The first wait for a result was made in a native thread, where eventlet's hub "
                "cannot stay: wait in the main thread first, or call "
                "app.backend.result_consumer.drainer.start() there."
            )
        self._hub = hubs.get_hub()


class EventletSignal:
    """A :class:`~celery_green_drain.drainers.base.Signal` for a green thread of this hub."""

    __slots__ = ("_event", "ready")

    def __init__(self) -> None:
        self.ready = False
        self._event: Any = None

    def set(self) -> None:
        if self.ready:
            return
        self.ready = True
        if self._event is not None:
            self._event.send()

    def wait(self, timeout: float | None = None) -> bool:
        if self.ready:
            return True
        self._event = Event()
        self._event.wait(timeout)
        return self.ready
