"""The reply queue of this process, as the sessions over AMQP and kombu's other brokers see it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import kombu

from ..drainers.mailbox import Mailbox
from .session import Session

__all__ = ("Replies", "ReplyQueue", "RpcSession")


class ReplyQueue(kombu.Queue):  # type: ignore[misc]
    """The queue that results come to."""

    can_cache_declaration = False  # the consumer knows when it has to be declared


@dataclass(frozen=True)
class Replies:
    """What a session is to consume, how, and for whom."""

    #: Not bound to a channel.
    queue: ReplyQueue

    #: Content types that are accepted.
    accept: Any

    #: Called with each message. Raises nothing.
    receive: Callable[[Any], None]

    #: What the session sleeps on.
    mailbox: Mailbox

    #: Seconds of silence after which the broker is asked whether it still lives.
    heartbeat: float

    def consume(self, channel: Any, no_ack: bool = False) -> kombu.Queue:
        """Declare the queue, and have its messages received; return it, bound to *channel*."""
        queue = self.queue(channel)
        queue.declare()
        kombu.Consumer(
            channel,
            [queue],
            no_ack=no_ack,
            on_message=self.receive,
            on_decode_error=lambda message, exc: self.receive(message),
            accept=self.accept,
            auto_declare=False,
        ).consume()
        return queue


class RpcSession(Session):
    """A connection that consumes the reply queue.

    :raises kombu.exceptions.OperationalError: where it cannot be opened.
    """

    @abstractmethod
    def leave(self, delete: bool) -> None:
        """Close politely; *delete* the queue before."""
