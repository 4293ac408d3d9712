"""Celery's RPC backend, served by a drainer."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from celery import states
from celery.backends import rpc as stock
from celery.signals import before_task_publish
from kombu.common import maybe_declare
from kombu.utils.functional import maybe_list

from ..consumers.rpc import ReplyQueue, RpcResultConsumer
from .base import DrainedBackendMixin

__all__ = ("RpcBackend",)


class RpcBackend(DrainedBackendMixin, stock.RPCBackend):  # type: ignore[misc]
    """Celery's RPC backend, with one reply queue for the process, drained by one greenlet."""

    ResultConsumer = RpcResultConsumer
    result_consumer: RpcResultConsumer

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        _backends.add(self)

    @property
    def oid(self) -> str:
        """The name of the reply queue."""
        return self.result_consumer.queue_name

    @property
    def binding(self) -> ReplyQueue:
        """The reply queue."""
        return self.result_consumer.queue()

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:
        """See that there is a queue for the result, and that it is drained.

        That is so even where nobody asks for the result: otherwise it would stay in the broker.
        """
        channel, declared = producer.channel, self.result_consumer.declared
        if channel.connection not in declared:
            conf = self.app.conf
            retry = (
                conf.task_publish_retry_policy if conf.task_publish_retry else {"max_retries": 0}
            )
            maybe_declare(self.binding(channel), retry=True, **retry)
            declared.add(channel.connection)
        self.result_consumer.start()
        return {}

    def get_task_meta(self, task_id: str, backlog_limit: int | None = None) -> dict[str, Any]:
        """The latest state that has come. Asks nobody.

        :raises ResultEvicted: where it came, and is no longer kept.
        """
        return self.result_consumer.latest(task_id) or {"status": states.PENDING, "result": None}

    poll = get_task_meta

    def forget(self, task_id: str) -> None:
        self.result_consumer.arrived.forget(task_id)
        super().forget(task_id)

    def _after_fork(self) -> None:
        """Nothing: Celery's hook knows some kinds of fork only, and the consumer knows all."""


_backends: weakref.WeakSet[RpcBackend] = weakref.WeakSet()


@before_task_publish.connect(weak=False)  # type: ignore[untyped-decorator]
def _reply_here(body: Any = None, properties: Any = None, **kwargs: Any) -> None:
    """Have the results of what this process sends come to its reply queue."""
    for backend in list(_backends):
        # What Celery sets where nobody else has. It names a greenlet, which may end.
        default = backend.app.thread_oid
        if properties.get("reply_to") == default:
            properties["reply_to"] = backend.oid
        embedded = body[2] if isinstance(body, (list, tuple)) else body
        for key in ("chain", "callbacks", "errbacks"):
            _redirect(embedded.get(key), default, backend.oid)


def _redirect(signatures: Any, default: str, name: str) -> None:
    """The same for those that a worker will send later on behalf of this process."""
    for signature in maybe_list(signatures) or ():
        options, kwargs = signature.get("options") or {}, signature.get("kwargs") or {}
        if options.get("reply_to") == default:
            options["reply_to"] = name
        further: Iterable[Any] = [options.get(key) for key in ("chain", "link", "link_error")]
        if signature.get("subtask_type"):  # a group, a chain: made of further ones
            further = [*further, kwargs.get("tasks"), kwargs.get("body")]
        for members in further:
            _redirect(members, default, name)
