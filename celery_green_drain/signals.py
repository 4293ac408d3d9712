"""Events of a process that waits for results, as signals of Celery.

Connect a receiver as to any signal of Celery. The sender is the app::

    from celery_green_drain.signals import connection_lost

    @connection_lost.connect
    def page_somebody(sender, error, **kwargs): ...

Receivers run beside the drain loop: one that raises is logged, and one that sleeps delays nothing.
Each gets ``at``, when it happened, in seconds since 1970.
"""

from __future__ import annotations

import logging
from typing import Any

from celery.utils.dispatch import Signal

__all__ = (
    "callback_raised",
    "connection_back",
    "connection_lost",
    "drainer_started",
    "drainer_stopped",
    "result_given_up",
)

logger = logging.getLogger(__name__)

#: A drain loop has begun. ``drainer``: its class, as text; ``address``: where results come from,
#: without the password.
drainer_started = Signal(name="drainer_started", providing_args={"drainer", "address", "at"})

#: A drain loop has ended, as it was asked to. The arguments are the same.
drainer_stopped = Signal(name="drainer_stopped", providing_args={"drainer", "address", "at"})

#: The connection that results come over is lost, or could not be opened: once an outage.
#: ``error``: why, as text; ``address``.
connection_lost = Signal(name="connection_lost", providing_args={"error", "address", "at"})

#: The outage is over, since ``at``: told once the connection has held for a second.
#: ``seconds``: how long it was; ``attempts``: how many failed; ``address``.
connection_back = Signal(
    name="connection_back", providing_args={"seconds", "attempts", "address", "at"}
)

#: A callback has raised. ``name``: whose it was, such as ``task 1f3c…``; ``exception``.
callback_raised = Signal(name="callback_raised", providing_args={"name", "exception", "at"})

#: Callbacks of a task are given up, as no result came. ``task_id``; ``exception``.
result_given_up = Signal(name="result_given_up", providing_args={"task_id", "exception", "at"})


def send(
    signal: Signal,
    sender: Any,
    arguments: dict[str, Any],
    failures: tuple[type[BaseException], ...],
) -> None:
    """Tell the receivers of *signal*; what one of them raises is logged, and reaches nobody.

    :param failures: what that may be, beside each ``Exception``, which the signal logs itself.
    """
    try:
        signal.send(sender=sender, **arguments)
    except failures as exc:
        logger.error("A receiver of %s raised %r.", signal.name, exc)
