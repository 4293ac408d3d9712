"""Whether the worker stores results where this process looks for them.

A message of Redis knows no database. So with a worker on another one, who waits before the result
comes gets it, and who asks later waits in vain.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from typing import Any

from redis.exceptions import RedisError

from ..addresses import result_address
from ..quoting import quoted

__all__ = ("StoreCheck",)

logger = logging.getLogger(__name__)

#: Databases that a Redis has, unless it is configured otherwise.
DATABASES = 16


class StoreCheck:
    """Looks once whether a result that came as a message is in the store as well.

    :param call: runs a function beside the drain loop.
    """

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call
        self._task_id: str | None = None
        self._over = False

    def came(self, backend: Any, task_id: str) -> None:
        """The last state of a task has come as a message."""
        if not self._over and self._task_id is None:
            self._task_id = task_id
            self._call(self._look, backend, task_id)

    def forgotten(self, task_id: str) -> None:
        """Somebody removes that result, so its absence says nothing: the next one is looked for."""
        if self._task_id == task_id:
            self._task_id = None

    def _look(self, backend: Any, task_id: str) -> None:
        try:
            there = backend.get(backend.get_key_for_task(task_id)) is not None
        except (RedisError, OSError):
            self._task_id = None  # an outage: the next one is looked for
            return
        if there:
            self._over = True
        elif self._task_id == task_id:
            self._over = True
            logger.error(
                "The result of task %s has come as a message, but %s does not hold it: the worker "
                "stores results %s. Who asks for one after it has come waits in vain. Give the "
                "worker and this process the same result_backend.",
                quoted(task_id),
                result_address(backend.app),
                self._found(backend, backend.get_key_for_task(task_id)),
            )

    def _found(self, backend: Any, key: Any) -> str:
        """Where *key* is, in words."""
        try:
            with closing(backend.drainer_pool().make_connection()) as connection:
                connection.connect()
                for number in range(DATABASES):
                    connection.send_command("SELECT", number)
                    connection.read_response()
                    connection.send_command("EXISTS", key)
                    if connection.read_response():
                        return f"in database {number} of that server"
        except (RedisError, OSError):
            pass  # it may not be allowed to look there
        return "elsewhere"
