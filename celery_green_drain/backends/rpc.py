"""Celery's RPC backend, served by a drainer."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

from celery import states
from celery._state import task_join_will_block
from celery.backends import rpc as stock
from celery.exceptions import ImproperlyConfigured
from celery.signals import before_task_publish
from kombu.common import maybe_declare
from kombu.utils.functional import maybe_list

from .. import forks
from ..consumers.rpc.consumer import UNDECLARABLE, RpcResultConsumer, is_of_declaring
from ..consumers.rpc.replies import ReplyQueue
from ..context import request_of
from ..copies import snapshot
from ..internals import as_text
from .base import DrainedBackendMixin

__all__ = ("RpcBackend",)

logger = logging.getLogger(__name__)


class RpcBackend(DrainedBackendMixin, stock.RPCBackend):
    """Celery's RPC backend, with one reply queue for the process, drained by one greenlet."""

    ResultConsumer = RpcResultConsumer
    result_consumer: RpcResultConsumer

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        if self.expires is not None and not isinstance(self.expires, (int, float)):
            raise ImproperlyConfigured(
                f"result_expires = {self.expires!r}: expected seconds, a timedelta, or None."
            )

    def take_replies(self) -> None:
        """Have the results of all that its app sends come here."""
        key, backends = id(self), _backends  # as its end may be that of this module too
        backends[key] = weakref.ref(self, lambda _: backends.pop(key, None))

    @property
    def oid(self) -> str:
        """The name of the reply queue."""
        forks.notice()
        return self.result_consumer.queue_name

    @property
    def binding(self) -> ReplyQueue:
        """The reply queue."""
        forks.notice()
        return self.result_consumer.queue()

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:
        """See that there is a queue for the result, and that it is drained.

        That is so even where nobody asks for the result: otherwise it would stay in the broker.
        Not so in a task of a prefork worker, whose results are mostly those of its client.
        """
        forks.notice()  # first, as a child has declared nothing
        if not task_join_will_block():
            self._see_to_queue(producer)
            self.result_consumer.buffer.hold(as_text(task_id))
            try:
                self.result_consumer.start()
            except RuntimeError as exc:  # in a native thread, under eventlet
                logger.warning("Results wait in their queue until a drainer starts: %s", exc)
        return {}

    def _see_to_queue(self, producer: Any) -> None:
        consumer = self.result_consumer
        name = consumer.queue_name
        try:
            self._declare(producer.channel)
        except UNDECLARABLE as exc:
            producer.revive(producer.connection.channel())  # that has closed the other one
            if is_of_declaring(exc):
                if consumer.session is not None:  # it is there all the same, as it is drained
                    consumer.declared.add(producer.channel.connection)
                    return
                consumer.take_another_queue(name, exc)
            self._declare(producer.channel)

    def _declare(self, channel: Any) -> None:
        consumer, queue = self.result_consumer, self.binding(channel)
        declared = consumer.declared
        # In an outage always, as Celery does: the connection may be lost, or the queue be gone.
        if consumer.session is None or channel.connection not in declared:
            conf = self.app.conf
            maybe_declare(queue, retry=conf.task_publish_retry, **conf.task_publish_retry_policy)
            # Over another one by now, if that had broken.
            if queue.channel.connection is not None:
                declared.add(queue.channel.connection)

    def destination_for(self, task_id: Any, request: Any) -> tuple[str | None, str]:
        """Where the state of a task is to be sent to.

        In what a task has started there is no request, or an empty one, so that of the running
        task counts.
        """
        if getattr(request, "reply_to", None) is None:
            request = request_of(as_text(task_id)) or request
        destination: tuple[str | None, str] = super().destination_for(task_id, request)
        return destination

    def get_task_meta(self, task_id: str, backlog_limit: int | None = None) -> dict[str, Any]:
        """The latest state that has come. Asks nobody.

        :raises ResultEvicted: where it came, and is no longer kept.
        """
        return self.result_consumer.latest(task_id) or {"status": states.PENDING, "result": None}

    poll = get_task_meta

    def remove_pending_result(self, result: Any) -> Any:
        """As for all; and nobody holds it any more. Finalisers come here."""
        self.result_consumer.buffer.release(as_text(result.id))
        return super().remove_pending_result(result)

    def forget(self, task_id: str) -> None:
        self.result_consumer.buffer.forget(as_text(task_id))
        super().forget(task_id)

    def _forget(self, task_id: str) -> None:
        """Nothing: no server keeps it. Celery's own says so since 5.7 only."""

    def _after_fork(self) -> None:
        """Nothing: Celery's hook knows some kinds of fork only, and the consumer knows all."""


#: Those that take replies. Changed in one step each, as several threads may use their apps for the
#: first time at once.
_backends: dict[int, weakref.ref[RpcBackend]] = {}


@before_task_publish.connect(weak=False)
def _reply_here(body: Any = None, properties: Any = None, **kwargs: Any) -> None:
    """Have the results of what this process sends come to its reply queue."""
    for backend in filter(None, [ref() for ref in snapshot(_backends.values())]):
        # What Celery sets where nobody else has. It names a greenlet, which may end.
        default, name = backend.app.thread_oid, backend.oid
        begin = backend.result_consumer.buffer.begin
        if properties.get("reply_to") == default:
            properties["reply_to"] = name
            begin(as_text(properties.get("correlation_id")))
        embedded = body[2] if isinstance(body, (list, tuple)) else body
        for key in ("chain", "callbacks", "errbacks"):
            if embedded.get(key):
                embedded[key] = _redirected(embedded[key], default, name, begin)


def _redirected(
    signatures: Any, default: str, name: str, begin: Callable[[str], None]
) -> list[Any]:
    """The same for those that a worker will send later on behalf of this process."""
    redirected = []
    for signature in maybe_list(signatures) or ():
        # Copies, as these may be the user's own, for other processes as well.
        options, kwargs = dict(signature.get("options") or {}), dict(signature.get("kwargs") or {})
        if options.get("reply_to") == default:
            options["reply_to"] = name
            begin(as_text(options.get("task_id")))
        for holder, keys in (
            (options, ("chain", "link", "link_error")),
            (kwargs, _members(signature)),
        ):
            for key in keys:
                if holder.get(key):
                    holder[key] = _redirected(holder[key], default, name, begin)
        redirected.append({**signature, "options": options, "kwargs": kwargs})
    return redirected


def _members(signature: Any) -> tuple[str, ...]:
    """In which arguments a signature has further ones: that of a group or a chain."""
    return ("tasks",) if signature.get("subtask_type") else ()
