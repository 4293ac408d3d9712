"""The reply queue of this process, as the sessions over AMQP and kombu's other brokers see it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import kombu

from ...drainers.mailbox import Mailbox
from ..session import Session

__all__ = ("Replies", "Reply", "ReplyQueue", "RpcSession")


class ReplyQueue(kombu.Queue):
    """The queue that results come to."""

    can_cache_declaration = False  # the consumer knows when it has to be declared


class Reply(NamedTuple):
    """A message of that queue."""

    #: Text, where its sender has named the charset.
    body: Any
    content_type: str | None
    content_encoding: str | None
    #: How the body was made smaller; None: it is as it was sent.
    compression: str | None
    #: Whose state it is, as far as its sender has written that outside.
    task_id: Any
    #: Whether the broker has sent it before.
    again: bool


@dataclass(frozen=True)
class Replies:
    """What a session is to consume, and for whom."""

    #: Not bound to a channel.
    queue: ReplyQueue

    #: Called with each message. Raises nothing.
    receive: Callable[[Reply], object]

    #: What the session sleeps on.
    mailbox: Mailbox

    #: Seconds of silence after which the broker is asked whether it still lives.
    heartbeat: float

    def declare(self, channel: Any) -> kombu.Queue:
        """Make the queue, if it is not there; return it, bound to *channel*."""
        queue = self.queue(channel)
        queue.declare()
        return queue


class RpcSession(Session):
    """A connection that consumes the reply queue.

    :raises kombu.exceptions.OperationalError: where it cannot be opened.
    """

    @abstractmethod
    def leave(self, delete: bool) -> None:
        """Close politely; *delete* the queue before."""
