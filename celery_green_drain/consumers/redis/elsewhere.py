"""Whether the worker stores results where this process looks for them.

A message of Redis knows no database. So with a worker on another one, who waits before the result
comes gets it, and who asks later waits in vain.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from ...addresses import result_address
from ...drainers.mailbox import Mailbox
from ...quoting import quoted
from ..base import OutOfStep

__all__ = ("StoreCheck",)

logger = logging.getLogger(__name__)

#: Seconds from the message to the look, which is in nobody's way then.
DELAY = 0.2

#: Results that are looked for at most: one that is nowhere was removed by somebody meanwhile.
TRIES = 3

#: Databases that a Redis has, unless it is configured otherwise.
DATABASES = 16


class Asked(Protocol):
    """What the check needs of a session."""

    def ask(self, name: str, argument: bytes, answered: Callable[[Any], None]) -> None:
        """Have ``name argument`` sent, in order; *answered* gets the reply, or the error."""

    @property
    def get_command(self) -> str | None:
        """What reads one key; None: the user may not."""


class Consumer(Protocol):
    """What the check needs of its consumer."""

    session: Any

    @property
    def backend(self) -> Any: ...

    @property
    def mailbox(self) -> Mailbox: ...

    def key(self, task_id: str) -> bytes: ...


class StoreCheck:
    """Looks once whether a result that came as a message is in the store as well.

    It asks over the connection that the drain loop has, where what is asked is answered in order
    and a fork does no harm: the other databases are looked at, and left again, in one write.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        #: Whether one is looked for, or was.
        self.begun = False
        #: Whether it has looked.
        self.over = False
        self._misses = 0

    def begin(self, task_id: str) -> None:
        """Look for the result of a task whose last state came as a message. For the drain loop."""
        self.begun = True
        self._consumer.mailbox.later(DELAY, self._look, self._consumer.session, task_id)

    def lost(self) -> None:
        """A new session begins, and what the last one was asked is not answered: look anew."""
        self.begun = self.over

    def _look(self, session: Asked, task_id: str) -> None:
        if session is not self._consumer.session:
            return
        name = session.get_command
        if name is None:
            self.over = True
            return
        key = self._consumer.key(task_id)
        session.ask(name, key, partial(self._on_looked, session, task_id, key))

    def _on_looked(self, session: Asked, task_id: str, key: bytes, reply: Any) -> None:
        if reply not in (None, [None]):
            self.over = True  # it is there; or an error, that who looks up results is told of
            return
        own = int(self._consumer.backend.connparams.get("db") or 0)
        others = [number for number in range(DATABASES) if number != own]
        selected: list[int] = []
        found: list[int] = []
        for number in others:
            session.ask("SELECT", b"%d" % number, partial(_note, selected, number))
            session.ask("EXISTS", key, partial(_note, found, number))
        session.ask("SELECT", b"%d" % own, partial(self._on_searched, task_id, selected, found))

    def _on_searched(self, task_id: str, selected: list[int], found: list[int], reply: Any) -> None:
        if selected and isinstance(reply, Exception):
            raise OutOfStep(f"Redis does not go back to its database: {reply}")
        self._misses += 1
        number = next((number for number in found if number in selected), None)
        self.over = number is not None or self._misses == TRIES
        self.begun = self.over
        if number is not None:
            logger.error(
                "The result of task %s has come as a message, but %s does not hold it: the worker "
                "stores results in database %d of that server. Who asks for one after it has come "
                "waits in vain. Give the worker and this process the same result_backend.",
                quoted(task_id),
                result_address(self._consumer.backend.app),
                number,
            )


def _note(numbers: list[int], number: int, reply: Any) -> None:
    if reply and not isinstance(reply, Exception):
        numbers.append(number)
