"""Our consumers on a drainer that is not ours."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from .. import forks
from .base import STOP_TIMEOUT, TURN, Life
from .lanes import Outcome
from .mailbox import Abandoned
from .thread import ThreadDrainer

__all__ = ("adapt",)

logger = logging.getLogger(__name__)


def adapt(cls: Callable[[Any], Any]) -> Callable[[Any], ThreadDrainer]:
    """Make the drainer class *cls* of somebody else serve our result consumers.

    It needs Celery's interface only: ``start``, ``stop``, ``wait_for`` and ``drain_events_until``,
    in which those who wait do so. Callbacks run in threads, which a green library may have patched.
    """
    return partial(_Foreign, cls=cls)


class _Foreign(ThreadDrainer):
    def __init__(self, result_consumer: Any, cls: Callable[[Any], Any]) -> None:
        super().__init__(result_consumer)
        self._draining = threading.Lock()
        self._leaving = False
        self._theirs = cls(self)

    @property
    def label(self) -> str:
        return type(self._theirs).__name__

    def start(self) -> None:
        if not self._retired:
            begins, self._life = self._life is Life.IDLE, Life.RUNNING
            self._theirs.start()
            if begins:
                self.drained.on_drainer_start()

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        self.ask_to_stop()
        self._stop_theirs(timeout)
        self.drained.on_drainer_end(stopped=True)
        self.mailbox.close()
        self._life = Life.IDLE

    def _stop_theirs(self, timeout: float) -> None:
        # Beside the caller, as theirs may wait for ever: before Celery 5.6 its eventlet drainer
        # does, as its loop dies of the request to end.
        outcomes: list[Outcome] = []
        stopped = threading.Event()

        def stop() -> None:
            outcomes.append(Outcome(self._theirs.stop, ()))
            stopped.set()

        self.spawn(stop)
        if stopped.wait(timeout):
            outcomes[0].get()
        else:
            logger.warning(
                "%s has not stopped within %g s. It is left alone.",
                type(self._theirs).__qualname__,
                timeout,
            )

    def drain_events(self, timeout: float | None = None) -> None:
        """What their drainer calls for a turn, each waiter by itself where it has no loop."""
        if self._retired:
            self._leave()
        elif self._draining.acquire(timeout=-1 if timeout is None else timeout):
            try:
                self.turn() if timeout is None else self.turn(timeout)
            except Abandoned:
                forks.notice()
                self.sleep(TURN)  # a copy of their loop, which nothing ends
            finally:
                self._draining.release()

    def _leave(self) -> None:
        if not self._leaving:
            self._leaving = True
            self.spawn(self.stop)  # beside their loop, as it waits for that loop's end
        self.sleep(TURN)

    def lives(self, spawned: Any) -> bool:
        return True  # it is theirs, if there is a loop at all

    def signal(self) -> Any:
        return _ForeignSignal(self._theirs)


class _ForeignSignal:
    __slots__ = ("_theirs", "ready")

    def __init__(self, theirs: Any) -> None:
        self.ready = False
        self._theirs = theirs

    def set(self) -> None:
        self.ready = True

    def wait(self, timeout: float | None = None) -> bool:
        try:
            for _ in self._theirs.drain_events_until(self, timeout=timeout):
                pass
        except OSError:  # socket.timeout: how Celery's drainers say that the time is up
            pass
        return self.ready
