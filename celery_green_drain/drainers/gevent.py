"""The drainer for gevent: nothing but gevent's primitives."""

from __future__ import annotations

import gc
import os
import selectors
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import gevent
from celery.backends.asynchronous import register_drainer
from gevent.hub import Hub, get_hub
from gevent.selectors import GeventSelector
from gevent.threadpool import ThreadPool
from greenlet import getcurrent, greenlet

from .base import Drainer
from .callbacks import CallbackRunner
from .lanes import Lanes
from .mailbox import Abandoned
from .patching import obstacle
from .ticket import Ticket

__all__ = ("GeventDrainer",)

#: Callbacks after which gevent looks how long it has been at them: 50 with libev.
CALLBACKS = 100

#: Seconds until a native thread that has nothing to do ends.
IDLE = 60

#: Pools of native threads that nobody uses any more, by process and size. gevent keeps for ever
#: what has had a thread, so each is used again.
_free_pools: defaultdict[tuple[int, int], list[ThreadPool]] = defaultdict(list)


@register_drainer("gevent")
class GeventDrainer(Drainer):
    """Drains in a greenlet of gevent, in the hub of the main thread."""

    name = "gevent"
    timeouts = (gevent.Timeout,)
    _hub: Hub | None = None
    #: The greenlet that has forked, in a child: the copy of the loop ends in the middle of that.
    _forking: Any = None

    def __init__(self, result_consumer: Any) -> None:
        super().__init__(result_consumer)
        self._callbacks = CallbackRunner(self.spawn)

    @classmethod
    def problem(cls) -> str | None:
        return obstacle("gevent")

    def call(self, function: Callable[..., object], *args: Any) -> None:
        self._callbacks.call(function, *args)

    @property
    def calls(self) -> int:
        return len(self._callbacks)

    def is_local(self) -> bool:
        return self.at_home() if self._hub is None else self._hub is get_hub()

    def spawn(self, function: Callable[..., object], *args: Any) -> object:
        if self.is_local() or self._hub is None:
            return gevent.spawn(function, *args)
        elsewhere = _Elsewhere()
        self._hub.loop.run_callback_threadsafe(elsewhere.begin, function, *args)
        return elsewhere

    def lives(self, spawned: Any) -> bool:
        return spawned is not None and not getattr(spawned, "dead", False)

    def when_over(self, spawned: Any, function: Callable[[Any], object]) -> None:
        if isinstance(spawned, gevent.Greenlet):  # a link is for the thread of its hub alone
            spawned.link(function)

    def signal(self) -> GeventSignal:
        return GeventSignal()

    @classmethod
    def own_signal(cls) -> GeventSignal:
        return GeventSignal()

    def sleep(self, seconds: float) -> None:
        gevent.sleep(seconds)

    def selector(self) -> selectors.BaseSelector:
        return GeventSelector()

    def see_to_sockets(self) -> None:
        # gevent polls after so many callbacks, however long each takes: one greenlet that works and
        # calls sleep(0) would keep everybody else from their sockets for half a second.
        run_callback = get_hub().loop.run_callback
        for _ in range(CALLBACKS):
            run_callback(_nothing)

    @classmethod
    def at_home(cls) -> bool:
        return bool(get_hub().main_hub)

    @classmethod
    def shares_sockets(cls) -> bool:
        # A socket belongs to the hub of the native thread that has made it.
        return cls.at_home()

    @classmethod
    def lanes(cls, limit: int, native: bool = False) -> Lanes:
        return Lanes(limit, cls, _Pool(2 * limit) if native else None)

    def discard(self, spawned: Any) -> None:
        # A greenlet exists in the child as well.
        is_loop = spawned is self.loop
        if isinstance(spawned, _Elsewhere):
            spawned = spawned.greenlet
        if not isinstance(spawned, gevent.Greenlet) or spawned is getcurrent():
            return
        if is_loop and spawned.gr_frame is not None and self._may_end_here():
            # Here and now: what it waits for on the parent's socket may be there already, and it
            # would go on before a kill has its turn.
            self._forking = getcurrent()
            spawned.throw(Abandoned)
        else:
            spawned.kill(block=False)

    def _may_end_here(self) -> bool:
        # To end a wait with libuv ends it in the parent, as that tells the kernel at once.
        return self.is_local() and "libuv" not in type(get_hub().loop).__module__

    def run(self, ticket: Ticket) -> None:
        try:
            super().run(ticket)
        finally:
            if self._forking is not None:
                self._forking.switch()  # and never on from here, where gevent would turn to its hub

    def _settle(self) -> None:
        hub = get_hub()
        if not hub.main_hub:
            # Some native thread waits first. Its hub ends with it, so the loop goes where
            # it can stay; gevent knows a thread's own hub only, hence the search.
            # By its type: what stands in for something else would be made to find that.
            hubs = (thing for thing in gc.get_objects() if issubclass(type(thing), Hub))
            hub = next((other for other in hubs if other.main_hub and other.loop), hub)
        self._hub = hub


class _Pool:
    """Native threads, for those who call through the same lanes.

    :param size: threads at most: more than lanes, as gevent frees one a moment after its call.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._pool: ThreadPool | None = None
        self._free: list[ThreadPool] = []

    def __call__(self, function: Callable[[], Any]) -> Any:
        if self._pool is None:
            self._free = _free_pools[os.getpid(), self._size]
            self._pool = (
                self._free.pop() if self._free else ThreadPool(self._size, idle_task_timeout=IDLE)
            )
        return self._pool.apply(function)

    def __del__(self) -> None:
        if self._pool is not None and not len(self._pool):  # else a call in it may hang for ever
            self._free.append(self._pool)


def _nothing() -> None:
    pass


class _Elsewhere:
    """A greenlet that another thread has asked the hub of the main one for."""

    greenlet: Any = None

    def begin(self, function: Callable[..., object], *args: Any) -> None:
        self.greenlet = gevent.spawn(function, *args)

    @property
    def dead(self) -> bool:
        return self.greenlet is not None and self.greenlet.dead


class GeventSignal:
    """A :class:`~celery_green_drain.drainers.signal.Signal` for a greenlet, in any thread.

    Without gevent's ``Waiter``, which would be one more object for each of thousands who wait.
    """

    __slots__ = ("_greenlet", "_hub", "ready")

    #: That of who waits.
    _hub: Hub

    def __init__(self) -> None:
        self.ready = False
        #: Who waits, as long as it does.
        self._greenlet: greenlet | None = None

    def set(self) -> None:
        if self.ready:
            return
        self.ready = True
        if self._greenlet is None:
            return
        hub, loop = self._hub, self._hub.loop
        if hub is get_hub():
            loop.run_callback(self._wake)
        elif loop is not None:  # else the native thread of who waited has ended
            loop.run_callback_threadsafe(self._wake)

    def _wake(self) -> None:
        # In its hub. It may have been killed meanwhile, and wait for something else by now.
        if self._greenlet is not None:
            self._greenlet.switch()

    def wait(self, timeout: float | None = None) -> bool:
        hub = self._hub = get_hub()
        self._greenlet = getcurrent()
        try:
            if self.ready:  # looked at last, so that a set() is not missed
                return True
            if timeout is None:
                hub.switch()
            else:
                timer = hub.loop.timer(max(timeout, 0))
                timer.start(self._wake)
                try:
                    hub.switch()
                finally:
                    timer.close()
        finally:
            self._greenlet = None
        return self.ready
