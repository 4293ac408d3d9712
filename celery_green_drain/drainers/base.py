"""The life of a drain loop.

A drainer knows no protocol: it turns ``result_consumer.drain_events()`` over and over, in one
greenlet (or thread), until it is stopped. What fails there is logged and tried again; nothing
but :meth:`Drainer.stop` ends the loop for good.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

from celery.backends import asynchronous

from .. import forks
from ..clock import monotonic
from .drained import drained
from .library import Library
from .mailbox import Abandoned, Mailbox
from .outage import Backoff, Outage
from .signal import Signal
from .ticket import Ticket

__all__ = ("Drainer",)

logger = logging.getLogger(__name__)

#: Seconds that :meth:`Drainer.stop` waits at most for the loop to end, unless told otherwise.
STOP_TIMEOUT = 10.0

#: Seconds a result consumer may take for one turn where nothing arrives.
TURN = 1.0

#: Seconds that a connection must have worked for the next one to be opened soon.
LASTED = 0.25

#: Longest pause, in seconds, after such a connection was opened.
OFTEN = 1.0

#: Where the server refuses us, or will answer later, and where somebody begins to wait, who is to
#: hear of it.
SOON = Backoff(1.0, 1.0)

#: Seconds that the loop sleeps in one piece where nothing can wake it.
REST = 0.25

#: What the log says where that has ended otherwise than by :meth:`Drainer.stop`.
KILLED = "The result drainer was killed; starting it again."


class Life(Enum):
    """In which part of its life a drain loop is."""

    #: It has not begun, or has ended.
    IDLE = "idle"
    #: It turns, or is about to.
    RUNNING = "running"
    #: It ends at its next turn.
    STOPPING = "stopping"
    #: This process is a child, and the loop is its parent's.
    ABANDONED = "abandoned"


#: Looked up once: every wait asks.
TURNING = (Life.RUNNING, Life.STOPPING)


class Drainer(Library, asynchronous.Drainer):
    """Base of the drainers: one loop that drains one result consumer.

    A subclass brings the primitives of its library, see :class:`~.library.Library`, and registers
    itself with :func:`celery.backends.asynchronous.register_drainer`.

    :param result_consumer: anything with Celery's ``drain_events(timeout)``.
    """

    def __init__(self, result_consumer: Any) -> None:
        super().__init__(result_consumer)
        self.drained = drained(result_consumer)
        self.backoff = Backoff(longest=self.drained.retry_max)
        self.outage = Outage()
        #: Since when the connection has worked, by the monotonic clock; None: it does not.
        self._works_since: float | None = None
        #: The way into the loop.
        self.mailbox = Mailbox(self)
        #: What :meth:`spawn` made of the loop: a greenlet or a thread.
        self.loop: object = None
        # Re-entrant, as a signal handler that waits for a result may come in the middle of start().
        self._lock = threading.RLock()
        self._life = Life.IDLE
        #: That of the loop which is to begin, or has begun.
        self._ticket = Ticket()
        #: Whether the loop is where it says itself when it ends: then nobody has to look.
        self._looping = False
        #: Apart from that, as a start() under way would overwrite it: a finaliser takes no lock.
        self._retired = False
        self._ended = self._broadcast()
        self._turned = self._broadcast()

    def __repr__(self) -> str:
        life = "retired" if self._retired else self._life.value
        return f"<{type(self).__name__}: {life}, {self.outage!r}, {self.mailbox!r}>"

    @property
    def label(self) -> str:
        """Its name for people."""
        return type(self).__name__

    # -- life

    @property
    def running(self) -> bool:
        """Whether the loop turns, or is about to."""
        return self._life in TURNING and (self._looping or self.lives(self.loop))

    def ask(self, function: Callable[..., object], *args: Any) -> None:
        """Have the loop call ``function(*args)`` at its next turn, and start it where none runs."""
        self.mailbox.note(function, args, True)
        # Not after the loop is woken: it might have done this by then, and been stopped since.
        if not (self._looping or self.running):
            self.start()
        self.mailbox.wake()

    def start(self) -> None:
        """Start the loop, after :meth:`stop` anew. Without effect where it runs, or is retired."""
        if self._start():
            # Not under the lock: what handles the log may send a task, and that starts the loop.
            logger.warning(KILLED)

    def _start(self) -> bool:
        """Do so; return whether one was killed before it ran."""
        forks.notice()
        if self._retired or self._abandoned or self.running:
            return False
        with self._lock:
            # Of a loop that has not begun, as the caller has interrupted who was about to start it
            # of here: it never will. Unless it does just now.
            if self.running or (not self._ticket.take() and self.running):
                return False
            killed = self._life is not Life.IDLE and self.loop is not None
            self._settle()
            ticket = self._ticket = Ticket()
            self.loop = None
            self._life = Life.RUNNING
            self._ended = self._broadcast()
            try:
                loop = self.spawn_apart(self.run, ticket)
                if self._ticket is ticket:
                    self.loop = loop
                    self.when_over(loop, self._over)
            except BaseException:
                # Such as what a signal handler raises, when it has been spawned already.
                if ticket.take() and self._ticket is ticket:
                    self._life = Life.IDLE
                raise
        return killed

    def _over(self, loop: object) -> None:
        """*loop* is over. If it was killed before it ran, nobody has told so far."""
        if loop is not self.loop or self._life is not Life.RUNNING or self._looping:
            return
        if not sys.is_finalizing():
            self.loop = None  # eventlet tells of it just before
            self._start()
            self.call(logger.warning, KILLED)  # the hub must not wait for what handles the log

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """End the loop, and wait for its end, *timeout* seconds at most.

        Who still waits gets :exc:`~celery_green_drain.DrainerStopped`. Callbacks stay
        registered, and are served after the next :meth:`start`. Further calls have no effect.
        """
        with self._lock:  # a start() under way is over then, and is stopped as well
            ended, running = self._ended, self.running
        if running:
            self.ask_to_stop()
            ended.wait(timeout)

    def ask_to_stop(self) -> None:
        """Let the loop end at its next turn. Neither waits nor switches, so finalisers may."""
        if self._life is Life.RUNNING:
            self._life = Life.STOPPING
        self.mailbox.wake()

    def retire(self) -> None:
        """Let the loop end, as :meth:`ask_to_stop` does, and never start again."""
        self._retired = True
        self.ask_to_stop()

    def abandon(self) -> None:
        """Forget the loop without touching what it holds: it belongs to the process that forked."""
        if self._abandoned:
            return
        self._life = Life.ABANDONED
        self.mailbox.abandon()
        forks.keep(self)

    def end_copy(self) -> None:
        """End the copy that the fork has made of an abandoned loop, if greenlets are copied."""
        self.discard(self.loop)

    @property
    def _ending(self) -> bool:
        return self._retired or self._life is not Life.RUNNING

    def run(self, ticket: Ticket) -> None:
        """The loop itself: what :meth:`start` spawns."""
        if not ticket.take():
            return  # there is another one in its place
        try:
            self._looping = True
            self.drained.on_drainer_start()
            while not self._ending:
                self.turn()
        except Abandoned:
            forks.notice()
            self.abandon()  # also where the consumer is none of ours
        finally:
            self._looping = False
            self._finish()

    def turn(self, timeout: float = TURN) -> None:
        """Read the notes, and drain once.

        A failure is logged, waited out, and raised to nobody.

        :raises Abandoned: in a child of the process whose loop this is.
        """
        self.mailbox.read()
        connected = self.drained.connected
        try:
            self.drained.drain_events(timeout=timeout)
        except socket.timeout:
            pass  # nothing came: Celery's own consumers say it so
        except Exception as exc:
            self.mailbox.look()
            if not self._ending:
                self._failed(exc, connected)
            return
        if self._works_since is None and self.drained.connected:
            self._works_since = monotonic()
        if not self.outage.over and self.drained.connected:
            attempts, seconds = self.outage.failures, self.outage.held()
            if seconds is not None:
                self.drained.on_back(seconds, attempts)
        turned, self._turned = self._turned, self._broadcast()
        turned.set()

    def _failed(self, exc: Exception, connected: bool) -> None:
        refused = isinstance(exc, self.drained.refusals)
        expected = isinstance(exc, self.drained.connection_errors)
        first, now = self.outage.over, monotonic()
        held = 0.0 if self._works_since is None else now - self._works_since
        self._works_since = None
        lasted = held >= LASTED
        self.drained.on_lost(self.outage.failed(exc, expected, refused, lasted), first)
        if first and connected:  # one that has held is opened anew at once, as stock Celery does
            pause = 0.0
        elif lasted:  # one that breaks again and again, and works in between: once a second
            pause = max(0.0, min(self.backoff.pause(self.outage.failures), OFTEN) - held)
        else:
            pause = self.backoff.pause(self.outage.attempts)
        if refused or isinstance(exc, self.drained.delays):
            pause = min(pause, SOON.pause(1))
        until = now + pause
        # Notes are read meanwhile: much of what they ask for needs no connection.
        while not self._ending and monotonic() < until:
            self._rest(until - monotonic())
            if self.mailbox.read():  # who begins to wait would find the server by itself
                until = min(until, now + SOON.pause(1))

    def _rest(self, seconds: float) -> None:
        try:
            self.mailbox.wait(seconds)
        except Exception:
            # As the turn before: where there are no files left, there is none to sleep on.
            self.sleep(max(0.0, min(seconds, REST)))

    @property
    def _abandoned(self) -> bool:
        return self._life is Life.ABANDONED

    def _finish(self) -> None:
        forks.notice()  # something else may have ended the copy of a loop in a child
        if self._abandoned:
            return
        ended, stopped = self._ended, self._ending
        try:
            self.drained.on_drainer_end(stopped=stopped)
        except Abandoned:
            self.abandon()  # also where the consumer is none of ours
        finally:
            forks.notice()  # in a child that was forked in the middle of that
            if not self._abandoned:
                self._ended_here(ended, stopped)

    def _ended_here(self, ended: _Broadcast, stopped: bool) -> None:
        self.mailbox.close()
        # Not before, or what is still done in this loop would start the next one.
        self._life = Life.IDLE
        killed = not stopped and not sys.is_finalizing()
        try:
            if killed or self.mailbox.asked:  # by another thread, just now
                self.start()
        finally:
            ended.set()
            self._turned.set()
        if killed:  # last, as what handles the log may wait, and be killed once more
            logger.warning(KILLED)

    def _settle(self) -> None:
        """Choose where the loop is to live, before it is spawned."""

    # -- Celery's interface for waiting, for consumers that are not ours

    def wait_for(self, p: Any, wait: Any = None, timeout: float | None = None) -> None:
        """Wait for the end of a turn, *timeout* seconds at most, unless *p* is ready."""
        turned = self._turned
        self.start()
        if not p.ready:
            turned.wait(timeout)

    def drain_events_until(
        self,
        p: Any,
        timeout: float | None = None,
        interval: float = 1,
        on_interval: Callable[[], object] | None = None,
        wait: Any = None,
    ) -> Iterator[None]:
        """Yield after each turn until *p* is ready.

        :param timeout: seconds in all; None: no limit.
        :param interval: seconds a turn may take before ``on_interval`` is called all the same.
        :raises socket.timeout: when *timeout* seconds have passed first.
        """
        deadline = None if timeout is None else monotonic() + timeout
        while not p.ready:
            rest = interval
            if deadline is not None:
                rest = min(interval, deadline - monotonic())
                if rest <= 0:
                    raise socket.timeout()
            self.wait_for(p, wait, timeout=rest)
            yield
            if on_interval:
                on_interval()

    def _broadcast(self) -> _Broadcast:
        return _Broadcast(self)


class _Broadcast:
    """Wakes all that wait, once: made of one signal each."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._waiting: list[Signal] = []
        self._set = False

    def set(self) -> None:
        self._set = True
        while self._waiting:
            try:
                self._waiting.pop().set()
            except IndexError:  # taken by another thread
                return

    def wait(self, timeout: float | None) -> None:
        signal = self._library.signal()
        self._waiting.append(signal)
        if not self._set:
            signal.wait(timeout)
