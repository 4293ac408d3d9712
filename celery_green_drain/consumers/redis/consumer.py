"""Results from Redis: the consumer, and how its session begins. See :mod:`.session`."""

from __future__ import annotations

import logging
import math
from typing import Any

from celery.backends.base import BaseKeyValueStoreBackend
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    RedisError,
    ResponseError,
)

from ... import drainers, forks
from ...drainers.base import Drainer
from ...notices import Seldom
from ...quoting import one_line
from ..base import OutOfStep
from ..reading import Reading
from ..session import SessionConsumer
from .elsewhere import StoreCheck
from .link import RESP3, NoPushes, NotReady, Unusable, raise_if_later
from .session import NEVER, NOBODY, RedisSession, is_never

__all__ = ("RedisResultConsumer",)

logger = logging.getLogger(__name__)

#: Seconds that a read waits at most for the loop to connect.
PATIENCE = 1.0

#: The same for what a connection begins with.
UNUSABLE = (*NEVER, "db index", "denied ")


class RedisResultConsumer(SessionConsumer[RedisSession]):
    """Drains Redis pub/sub. See the module for how."""

    connection_errors = (RedisError, OutOfStep, OSError)
    refusals = (AuthenticationError, AuthorizationError, Unusable)
    delays = (NotReady,)

    def _begin(self) -> None:
        super()._begin()
        #: Whether the server speaks RESP3; None: that is not known so far.
        self._resp3: bool | None = None if RESP3 else False
        self._try_resp3 = True
        #: Commands that this user may not use, or this server does not know.
        self.refused: set[str] = set()
        #: Of which of them the log has told.
        self._told_of: set[str] = set()
        self._complaints = Seldom()
        #: Whether one connection with RESP3 could not be opened, and two with RESP2 could.
        self._doubts = False
        #: Whether the next session is to do without RESP3, as the one before was lost in a look-up.
        self._rest = False
        #: Before the id in all keys; empty: the backend makes them in a way of its own.
        self._prefix: bytes | None = None
        #: Reads that no session has taken so far.
        self._readings: list[Reading] = []
        #: Whether the worker stores where this process looks.
        self.check = StoreCheck(self)
        #: Ids under which the state of another task was found.
        self.strange: set[str] = set()

    # -- for everybody

    def read(self, key: bytes) -> Reading | None:
        """Return what is stored under *key*, read together with what others ask for.

        None where the loop cannot tell: it does not run and is not to be started for this, as in
        a worker that waits for nothing, or Redis is away. The caller asks Redis by itself then.
        """
        drainer = self._reader()
        if drainer is None:
            return None
        reading = Reading(key, drainer.signal())
        try:
            drainer.ask(self._read, reading)
        except RuntimeError:
            return None  # it cannot be started here: in a native thread, or for want of threads
        return reading if reading.wait(self._patience) else None

    @property
    def _patience(self) -> float:
        """Seconds that a read may take before the caller asks Redis by itself."""
        if self.session is None:
            return PATIENCE
        limit = self.backend.connparams.get("socket_timeout") or math.inf
        return min(2 * self.settings.heartbeat, limit)

    def _reader(self) -> Drainer | None:
        """The drainer, if it can be asked here and now."""
        forks.notice()
        drainer = self._drainer
        if drainer is None and drainers.fitting() is not drainers.threaded():
            drainer = self.drainer
        if drainer is None or drainer.mailbox.is_read_here():
            return None
        if drainer.running:
            return drainer if self.session is not None or drainer.outage.over else None
        # One that was stopped is left so.
        fresh = drainer.loop is None and drainer.is_local()
        return drainer if fresh and not isinstance(drainer, drainers.threaded()) else None

    @property
    def subscriptions(self) -> int:
        return 0 if self.session is None else self.session.subscriptions

    # -- in the drain loop

    def drain_events(self, timeout: float | None = None) -> None:
        session = self.session
        try:
            super().drain_events(timeout)
        except NoPushes as exc:
            self._do_without_resp3("Redis speaks RESP3 without pushes", exc, never=True)
            raise
        except NotReady:
            raise
        except (RedisError, OSError) as exc:
            if session is not None:
                self._rest = session.is_looking_where_it_listens
                if self._rest:
                    # Perhaps as the answer was larger than what Redis keeps for one that listens.
                    logger.info(
                        "Two connections are used until the next outage, as the one was lost in "
                        "the middle of a look-up: %s",
                        one_line(exc),
                    )
            raise

    def _read(self, reading: Reading) -> None:
        if self.session is None:
            self._readings.append(reading)
        else:
            self.session.read(reading)

    def key(self, task_id: str) -> bytes:
        """The key that the state of *task_id* is stored under, and the channel that it comes over.

        :raises ValueError: where that is no id.
        """
        if self._prefix is None:
            self._prefix = _prefix(self.backend)
        if self._prefix and task_id:
            return self._prefix + task_id.encode()
        key: bytes = self.backend.get_key_for_task(task_id)
        return key

    def open_session(self) -> RedisSession:
        try:
            session = self._open()
        except BaseException:
            self._give_up_readings()
            raise
        self.check.lost()
        self.refused.clear()  # a failover may have brought other rights
        readings, self._readings = self._readings, []
        for reading in readings:
            session.read(reading)
        return session

    def _open(self) -> RedisSession:
        resp3 = self._try_resp3 if self._resp3 is None else self._resp3
        resp3 = (
            resp3 and not self._rest and str(self.backend.connparams.get("protocol") or 3) == "3"
        )
        try:
            session = RedisSession(self, resp3)
        except (ResponseError, BusyLoadingError) as exc:
            raise_if_later(exc)
            if not resp3:
                raise _unusable(exc) from exc
            # An unknown or a forbidden HELLO; or all else is refused as well.
            session = self._open_resp2(exc)
        except (RedisError, OSError) as exc:
            # Perhaps a proxy that closes on HELLO, and the next attempt does without.
            refused = isinstance(exc, AuthenticationError)
            self._try_resp3 = not resp3 or refused or "connecting" in str(exc)
            raise
        else:
            if resp3:
                self._resp3, self._doubts = True, False
            elif not self._try_resp3:
                self._do_without_resp3("one with RESP3 was closed as it was opened", None)
        return session

    def _open_resp2(self, refusal: Exception) -> RedisSession:
        try:
            session = RedisSession(self, resp3=False)
        except ResponseError as exc:
            raise_if_later(exc)
            raise _unusable(exc) from exc
        except (RedisError, OSError) as exc:
            raise_if_later(exc)
            raise _unusable(refusal) from exc  # which tells more than that it has hung up
        self._do_without_resp3("Redis does not speak RESP3", refusal, is_never(refusal))
        return session

    def _do_without_resp3(self, why: str, error: Exception | None, never: bool = False) -> None:
        # Perhaps the server was away just when that was tried: the second time shows.
        self._resp3 = False if never or self._doubts else None
        self._try_resp3 = self._doubts = True
        for_good = "" if self._resp3 is None else " from now on"
        reason = why if error is None else f"{why}: {one_line(error)}"
        logger.info("Two connections are used%s, as %s", for_good, reason)

    def on_unreadable(self, task_id: str, exc: Exception, stored: bool) -> bool:
        if stored or self.session is None:
            return super().on_unreadable(task_id, exc, stored)
        self.session.look_up(task_id)  # the store decides
        return False

    def on_wanted(self, task_id: str) -> None:
        try:
            key = self.key(task_id)
        except ValueError as exc:  # an empty id, or text that is none
            self.cannot_read(task_id, exc)
            self.table.fail([task_id], exc)
            return
        if self.session is not None:
            self.session.want(key, task_id)

    def on_unwanted(self, task_id: str) -> None:
        if self.session is not None:
            self.session.drop(task_id)

    def refuse(self, name: str, error: Exception, instead: str) -> None:
        """Do without the command *name*, until rights may have changed; say so once."""
        self.refused.add(name)
        if name not in self._told_of:
            self._told_of.add(name)
            logger.warning("Redis refuses %s, so %s: %s", name, instead, error)

    def complain(self, error: Exception) -> None:
        """A further look has ended in *error*, and is repeated; say so once a minute at most."""
        if self._complaints.due:
            self._complaints.said()
            logger.warning(
                "Redis answers a look for results with an error, and is asked again: %s", error
            )

    def disconnect(self) -> None:
        super().disconnect()
        self._give_up_readings()

    def on_drainer_end(self, stopped: bool) -> None:
        super().on_drainer_end(stopped)
        self._give_up_readings()  # of its last notes, which no session takes any more

    def _give_up_readings(self) -> None:
        while self._readings:
            self._readings.pop().give_up()


def _prefix(backend: Any) -> bytes:
    """What all keys of *backend* have before the id. Celery encodes it anew for each of them."""
    make = backend.get_key_for_task
    if getattr(make, "__func__", None) is not BaseKeyValueStoreBackend.get_key_for_task:
        return b""
    key: bytes = make(NOBODY)
    # Somebody may have changed Celery's own.
    return key[: -len(NOBODY)] if key.endswith(NOBODY.encode()) else b""


def _unusable(error: Exception) -> Exception:
    """What a refused begin of a connection means: it is for good, or worth another attempt."""
    return Unusable(str(error)) if is_never(error, UNUSABLE) else ConnectionError(str(error))
