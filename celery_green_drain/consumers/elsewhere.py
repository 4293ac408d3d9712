"""Whether the worker stores results where this process looks for them.

A message of Redis knows no database. So with a worker on another one, who waits before the result
comes gets it, and who asks later waits in vain.
"""

from __future__ import annotations

import logging
from contextlib import closing
from typing import Any, Protocol

from redis.exceptions import RedisError

from ..addresses import result_address
from ..drainers.mailbox import Mailbox
from ..quoting import quoted

__all__ = ("StoreCheck",)

logger = logging.getLogger(__name__)

#: Seconds from the message to the look, which is in nobody's way then.
DELAY = 0.2

#: Databases that a Redis has, unless it is configured otherwise.
DATABASES = 16


class Consumer(Protocol):
    """What the check needs of its consumer."""

    @property
    def backend(self) -> Any: ...

    @property
    def mailbox(self) -> Mailbox: ...

    def call(self, function: Any, *args: Any) -> None: ...


class StoreCheck:
    """Looks once whether a result that came as a message is in the store as well."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        #: Whether one is looked for, or was.
        self.begun = False
        #: The one that is looked for.
        self._task_id: str | None = None

    @property
    def over(self) -> bool:
        """Whether it has looked."""
        return self.begun and self._task_id is None

    def begin(self, task_id: str) -> None:
        """Look for the result of a task whose last state came as a message. For the drain loop."""
        self.begun = True
        self._task_id = task_id
        self._consumer.mailbox.later(DELAY, self._consumer.call, self._look, task_id)

    def forgotten(self, task_id: str) -> None:
        """Somebody removes that result, so its absence says nothing: the next one is looked for."""
        if self._task_id == task_id:
            self._task_id = None
            self.begun = False

    def _look(self, task_id: str) -> None:
        backend = self._consumer.backend
        if backend is None or self._task_id != task_id:
            return
        key = backend.get_key_for_task(task_id)
        try:
            stored = backend.get(key) is not None
        except Exception as exc:  # an outage, whatever it is called: the next one is looked for
            logger.debug("The result of task %s cannot be looked for: %s", quoted(task_id), exc)
            self.forgotten(task_id)
            return
        if self._task_id != task_id:
            return
        self._task_id = None
        if not stored:
            logger.error(
                "The result of task %s has come as a message, but %s does not hold it: the worker "
                "stores results %s. Who asks for one after it has come waits in vain. Give the "
                "worker and this process the same result_backend.",
                quoted(task_id),
                result_address(backend.app),
                _found(backend, key),
            )


def _found(backend: Any, key: bytes) -> str:
    """Where *key* is, in words."""
    try:
        with closing(Connection(backend.drainer_pool())) as connection:
            for number in range(DATABASES):
                connection.ask("SELECT", number)
                if connection.ask("EXISTS", key):
                    return f"in database {number} of that server"
    except (RedisError, OSError) as exc:
        logger.debug("The other databases cannot be looked at: %s", exc)
    return "elsewhere"


class Connection:
    """One connection, out of no pool, as it changes its database."""

    def __init__(self, pool: Any) -> None:
        self._connection = pool.make_connection()
        self._connection.connect()

    def ask(self, *command: Any) -> Any:
        self._connection.send_command(*command)
        return self._connection.read_response()

    def close(self) -> None:
        self._connection.disconnect()
