"""Results from a message queue: one connection, and one queue that belongs to this process.

Each task that is sent names the queue in its ``reply_to``, whichever greenlet sends it. What
arrives is kept, as nothing else keeps it, and handed to those who wait for it.
"""

from __future__ import annotations

import atexit
import logging
import math
import re
import weakref
from typing import Any
from uuid import uuid4

from amqp.exceptions import AccessRefused, AMQPError, NotAllowed, NotFound, PreconditionFailed
from celery.signals import worker_process_shutdown
from kombu.compression import decompress
from kombu.exceptions import DecodeError, KombuError

from ... import exits, forks
from ...clock import monotonic
from ...copies import Own
from ...drainers.base import Drainer
from ...internals import as_text
from ...pending import Meta, PendingResult, Wait
from ...quoting import one_line, quoted
from ..decoding import loads
from ..session import SessionConsumer
from .amqp import AmqpSession
from .buffer import Buffer, Payload
from .replies import Replies, Reply, ReplyQueue, RpcSession
from .virtual import VirtualSession

__all__ = ("UNDECLARABLE", "RpcResultConsumer", "is_of_declaring")

logger = logging.getLogger(__name__)

#: Longest time that the broker keeps a queue which nobody uses, in seconds; RabbitMQ has a limit.
LONGEST = 49 * 24 * 3600

#: The same at least: time to come back after a lost connection.
SHORTEST = 1

#: The same where results never expire.
DAY = 24 * 3600

#: What a broker answers where a queue cannot be declared again: its node is away, or queues of that
#: name are to be of another kind by now.
UNDECLARABLE = (NotFound, PreconditionFailed)

#: Where RabbitMQ allows no more connections, channels, or queues.
LIMIT = re.compile(r"\blimit\b.*\(\d+\)")

#: Seconds that the end of the process may be held up by, to delete the queues of all its apps.
FAREWELL = 2.0


class RpcResultConsumer(SessionConsumer[RpcSession]):
    """Drains the reply queue. See the module for how."""

    connection_errors = (AMQPError, KombuError, OSError)
    refusals = (AccessRefused, NotAllowed)

    def __init__(self, backend: Any, app: Any = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(backend, app, *args, **kwargs)
        _leavers.add(self)

    def _begin(self) -> None:
        super()._begin()
        #: Another one in each process, so that nobody gets what is another's.
        self.queue_name = str(uuid4())
        #: That of the session.
        self._consumed = ""
        self.buffer = Buffer(self.settings.buffer)
        #: Connections of senders over which the queue was declared: a broker may lose it.
        self.declared: weakref.WeakSet[Any] = weakref.WeakSet()
        # The same object for all attempts: it knows which of several brokers is the next.
        self._connection: Any = None
        self._leaving = False

    @property
    def evictions(self) -> int:
        return self.buffer.evictions

    def queue(self) -> ReplyQueue:
        """The queue, which outlives a lost connection, and not for ever its process."""
        backend = self.backend
        return ReplyQueue(
            self.queue_name,
            backend.exchange,
            self.queue_name,
            durable=True,
            auto_delete=False,
            # A broker may take a lost connection for alive, and share out what comes between its
            # consumer and this one: all is to go to the newest, as RabbitMQ then has it.
            consumer_arguments={"x-priority": self.buffer.connection},
            expires=min(max(backend.expires or DAY, SHORTEST), LONGEST),
        )

    # -- what arrives

    def connect(self) -> Any:
        """A connection to the broker: the one that tasks are sent to, as in Celery.

        The queue is declared there, and workers reply there.
        """
        return self.backend.app.connection_for_write()

    def open_session(self) -> RpcSession:
        if self._connection is None:
            self._connection = self.connect()
        connection = self._connection
        self.buffer.connection += 1
        # In whole seconds, as AMQP counts them, whatever the URL says.
        connection.heartbeat = math.ceil(self.settings.heartbeat)
        self.connection_errors = (
            *type(self).connection_errors,
            *connection.connection_errors,
            *connection.channel_errors,
        )
        kind = AmqpSession if connection.transport.driver_name == "py-amqp" else VirtualSession
        name = self.queue_name
        replies = Replies(self.queue(), self.receive, self.mailbox, self.settings.heartbeat)
        try:
            session = kind(connection, replies)
        except UNDECLARABLE as exc:
            self.take_another_queue(name, exc)
            raise
        except NotAllowed as exc:
            if LIMIT.search(str(exc)):  # there may be room for one soon
                raise ConnectionError(str(exc)) from exc
            raise
        self._consumed = name
        self.mailbox.post(self._reopen)  # who sends may have taken another one meanwhile
        return session

    def take_another_queue(self, name: str, error: Exception) -> None:
        """The queue *name* cannot be had any more. For everybody; the first who notices does it.

        Results that were to come over it are lost.
        """
        if name != self.queue_name or LIMIT.search(str(error)):  # another one is beyond that, too
            return
        self.queue_name = str(uuid4())
        self.declared.clear()
        logger.warning(
            "The reply queue cannot be declared any more, so there is another one from now on. "
            "Results of tasks that were sent before may be lost: %s",
            one_line(error),
        )
        self.mailbox.post(self._reopen)

    def _reopen(self) -> None:
        if self.session is not None and self._consumed != self.queue_name:
            self.disconnect()

    def receive(self, reply: Reply) -> None:
        """Take a message of the queue, whatever it is. Raises nothing: it would come again."""
        if self.backend is None:
            return  # the app has gone, and the queue goes next
        try:
            self._receive(reply)
        except Exception:
            self.figures.unreadable += 1
            logger.exception("A message of task %s could not be taken.", quoted(reply.task_id))

    def _receive(self, reply: Reply) -> None:
        accept = self.backend.accept
        try:
            if reply.compression:
                reply = reply._replace(body=decompress(reply.body, reply.compression))
            meta = _checked(loads(reply.body, reply.content_type, reply.content_encoding, accept))
        except Exception as exc:
            self._receive_unreadable(reply, exc)
            return
        task_id, last = meta["task_id"], meta["status"] in self.backend.READY_STATES
        waited_for = task_id in self.table
        payload = self._payload(reply, last)
        new = self.buffer.put(task_id, payload, read=waited_for)
        if waited_for and new:
            first = Own(meta, lambda: _checked(payload.decode(accept)))
            self.deliver(task_id, lambda: self.backend.meta_from_decoded(first()))

    def _receive_unreadable(self, reply: Reply, exc: Exception) -> None:
        task_id = reply.task_id
        self.cannot_read(task_id or "(unknown)", exc)
        if isinstance(task_id, str):
            self.buffer.put(task_id, self._payload(reply, True), read=task_id in self.table)
            self.table.fail([task_id], exc)

    def _payload(self, reply: Reply, last: bool) -> Payload:
        return Payload(
            reply.body,
            reply.content_type,
            reply.content_encoding,
            last,
            0 if reply.again else self.buffer.connection,
        )

    def decode(self, payload: Payload) -> Meta:
        """The state that *payload* tells."""
        meta: Meta = self.backend.meta_from_decoded(_checked(payload.decode(self.backend.accept)))
        return meta

    # -- who asks

    def want(self, pending: PendingResult, wait: Wait | None = None) -> None:
        # What is here needs no loop: it may be waiting for a broker that is away.
        try:
            payload = self.buffer.get(pending.task_id)
            if payload is None or not payload.last:
                super().want(pending, wait)
                return
            meta = self.decode(payload)
        except Exception as exc:
            pending.fail(exc)
        else:
            if self.drainer.running:
                self.buffer.note_got(pending.task_id)
                self.mailbox.post(self._got, {"status": meta["status"]})
            else:  # nobody would ever read these notes
                self.buffer.note_asked(pending.task_id)
            pending.resolve(meta, lambda: self.decode(payload))

    def _got(self, meta: Meta) -> None:
        self.figures.result(meta, monotonic())
        self.buffer.mark_read()

    def on_wanted(self, task_id: str) -> None:
        try:
            payload = self.buffer.get(task_id)
        except Exception as exc:
            self.table.fail([task_id], exc)
            return
        if payload is not None:
            self.buffer.note_got(task_id)
            self.buffer.mark_read()
            self.deliver(task_id, lambda: self.decode(payload))

    def latest(self, task_id: Any) -> Meta | None:
        """The latest state of a task that has come; None: there is none.

        :raises ResultEvicted: where it came, and is no longer kept.
        """
        task_id = as_text(task_id)
        payload = self.buffer.get(task_id)
        if payload is None:
            return None
        self.buffer.note_asked(task_id)
        return self.decode(payload)

    # -- the ends of things

    def on_drainer_end(self, stopped: bool) -> None:
        session = self.session
        try:
            if stopped and session is not None:
                self._say_farewell(session)
        finally:
            forks.notice()
            # In a child that was forked meanwhile this is the parent's, and there is none.
            if self.session is session:
                if self._leaving:
                    self.session = None
                else:
                    super().on_drainer_end(stopped)

    def _say_farewell(self, session: RpcSession) -> None:
        # Who waits may do so again later, and the answer may come meanwhile.
        still_wanted = self.backend is not None and (len(self.table) > 0 or self.mailbox.asked)
        delete = self._leaving or not still_wanted
        if delete:
            self.declared.clear()
        session.leave(delete)

    def leave(self) -> Drainer | None:
        """The process ends: have the queue deleted. Return the drainer that does it."""
        self._leaving = True
        if self._drainer is not None:
            self._drainer.ask_to_stop()
        return self._drainer


def is_of_declaring(error: Exception) -> bool:
    """Whether *error*, one of :data:`UNDECLARABLE`, is about the queue.

    A broker tells late of what it refuses to take: that may be about a task sent before.
    """
    return not str(getattr(error, "method_name", "")).startswith("Basic.")


def _checked(meta: Any) -> Any:
    if isinstance(meta, dict):
        task_id, status = meta.get("task_id"), meta.get("status")
        if isinstance(task_id, str) and isinstance(status, str):
            return meta
    raise DecodeError(f"This is not the state of a task: {meta!r:.100}")


_leavers: weakref.WeakSet[RpcResultConsumer] = weakref.WeakSet()


@atexit.register
@worker_process_shutdown.connect(weak=False)
def _leave(**kwargs: Any) -> None:
    try:
        exits.finish()  # which results may still come for
    finally:
        deadline = monotonic() + FAREWELL
        for drainer in [consumer.leave() for consumer in list(_leavers)]:
            if drainer is not None:
                drainer.stop(max(0.0, deadline - monotonic()))
