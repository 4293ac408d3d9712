"""Results from Redis: one connection for messages, one to look up what was stored before.

Celery stores a result and publishes it on a channel named as its key, in one transaction.
A wait is served in this order, for all that have gathered meanwhile at once:

    SUBSCRIBE → confirmed → MGET

What was stored before the confirmation is found by the MGET, what comes after it by the
subscription, so no result slips between. Both connections are read by the drain loop
alone, and it alone writes to them: nothing here needs a lock.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ConnectionError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from ..pending import PendingResult, Wait
from .session import Session, SessionConsumer, not_blocking, nothing_there

try:
    import hiredis
except ImportError:
    hiredis = None  # type: ignore[assignment]


__all__ = ("RedisResultConsumer",)

#: Task ids in one SUBSCRIBE or MGET: bounds the server's pause and the reply's size.
CHUNK = 1000

#: Responses handled before others may run.
BATCH = 500

#: Bytes read from the socket at once.
READ_SIZE = 65536

#: What hiredis says where a response is not complete. It has a value for all else.
INCOMPLETE = object()

#: Errors of Redis that no new attempt will mend, by the word that they begin with.
REFUSALS = {
    "NOAUTH": AuthenticationError,
    "NOPERM": NoPermissionError,
    "WRONGPASS": AuthenticationError,
}

#: Seconds that ids to unsubscribe from may gather, where nothing else is to be sent.
LINGER = 0.05


class RedisResultConsumer(SessionConsumer["RedisSession"]):
    """Drains Redis pub/sub. See the module for how."""

    connection_errors = (RedisError, OSError)
    refusals = (AuthenticationError, AuthorizationError, NoPermissionError)

    def open_session(self) -> RedisSession:
        return RedisSession(self)

    def want(self, pending: PendingResult, wait: Wait | None = None) -> None:
        # A task id that can be no key is refused here, where its owner hears of it.
        self.backend.get_key_for_task(pending.task_id)
        super().want(pending, wait)

    def on_wanted(self, task_id: str) -> None:
        if self._session is not None:
            self._session.want(task_id)

    def on_unwanted(self, task_id: str) -> None:
        if self._session is not None:
            self._session.drop(task_id)


class RedisSession(Session):
    """A pair of connections, and what was asked over them.

    :raises ConnectionError: where they cannot be opened, and what else Redis may say then.
    """

    CONNECTIONS = 2

    def __init__(self, consumer: RedisResultConsumer) -> None:
        self._backend = weakref.proxy(consumer.backend)
        self._table = consumer.table
        self._deliver = consumer.deliver
        self._mailbox = consumer.mailbox
        self._settings = consumer.settings
        self._table.doubt()
        #: Channel → task id, for all that the server knows, or will know once it has read.
        self._subscribed: dict[bytes, str] = {}
        #: The same for what is to be subscribed to, and looked up, with the next command.
        self._wanted = self._channels()
        self._unknown: dict[bytes, str] = {}
        #: What is to be unsubscribed from.
        self._unwanted: dict[bytes, None] = {}
        #: SUBSCRIBE commands not yet confirmed: the channels of each, and how many are missing.
        self._confirming: deque[list[Any]] = deque()
        #: Look-ups not yet answered: the ids of each; none for a PING.
        self._looking_up: deque[list[str]] = deque()
        self._reconciled = time.monotonic()
        with ExitStack() as opened:
            self._pool = self._backend.drainer_pool(
                socket_timeout=self._settings.heartbeat,
                health_check_interval=0,  # the heartbeat here does that
                retry=Retry(NoBackoff(), 0),  # and the drainer this
                retry_on_timeout=False,
                decode_responses=False,
                # The push messages of RESP3 cost more to parse, and bring nothing here.
                **({"protocol": 2} if redis.VERSION >= (5,) else {}),
            )
            self._pubsub = opened.enter_context(closing(Link(self._pool)))
            self._lookup = opened.enter_context(closing(Link(self._pool)))
            for link in (self._pubsub, self._lookup):
                self._mailbox.register(link)
                opened.callback(self._mailbox.unregister, link)
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    def turn(self, timeout: float | None) -> None:
        self._send()
        ready = self._mailbox.wait(self._patience(timeout))
        # Messages first: where one and the stored state are the same, the message is first.
        if self._pubsub in ready:
            self._read(self._pubsub, self._on_message)
        if self._lookup in ready:
            self._read(self._lookup, self._on_looked_up)
        if not ready:
            self._unsubscribe()
        self._look_after(time.monotonic())

    def _patience(self, timeout: float | None) -> float:
        """How long to wait for something to arrive, in seconds."""
        due = min(link.due(self._settings.heartbeat) for link in (self._pubsub, self._lookup))
        waits = [due - time.monotonic()]
        if timeout is not None:
            waits.append(timeout)
        if self._unwanted:
            waits.append(LINGER)
        return max(0.0, min(waits))

    def _read(self, link: Link, handle: Callable[[Any], None]) -> None:
        for count, response in enumerate(link.responses(), 1):
            handle(response)
            if count % BATCH == 0:
                self._mailbox.rest()

    # -- what is to be sent

    def want(self, task_id: str) -> None:
        channel = self._channel(task_id)
        if channel in self._subscribed:
            self._unwanted.pop(channel, None)
            self._unknown[channel] = task_id
        else:
            self._wanted[channel] = task_id

    def drop(self, task_id: str) -> None:
        channel = self._channel(task_id)
        self._wanted.pop(channel, None)
        if channel in self._subscribed:
            self._unwanted[channel] = None

    def _channel(self, task_id: str) -> bytes:
        key: bytes = self._backend.get_key_for_task(task_id)
        return key

    def _channels(self) -> dict[bytes, str]:
        """Those of all that is waited for."""
        return {self._channel(task_id): task_id for task_id in self._table}

    def _send(self) -> None:
        # While a SUBSCRIBE is under way further ids gather: that is what batches them.
        if self._wanted and not self._confirming:
            self._unsubscribe()
            self._subscribe()
        elif len(self._unwanted) >= CHUNK:
            self._unsubscribe()
        if self._unknown:
            self._look_up()

    def _subscribe(self) -> None:
        commands = []
        for channels in _chunks(self._wanted):
            self._confirming.append([channels, len(channels)])
            commands.append(("SUBSCRIBE", *channels))
        self._subscribed.update(self._wanted)
        self._wanted.clear()
        self._pubsub.send(commands)

    def _unsubscribe(self) -> None:
        if self._unwanted:
            for channel in self._unwanted:
                self._subscribed.pop(channel, None)
            commands = [("UNSUBSCRIBE", *channels) for channels in _chunks(self._unwanted)]
            self._unwanted.clear()
            self._pubsub.send(commands)

    def _look_up(self) -> None:
        commands = []
        pending = {key: task_id for key, task_id in self._unknown.items() if task_id in self._table}
        for keys in _chunks(pending):
            self._looking_up.append([pending[key] for key in keys])
            commands.append(("MGET", *keys))
        self._unknown.clear()
        self._lookup.send(commands)

    # -- what arrives

    def _on_message(self, response: Any) -> None:
        kind = response[0] if isinstance(response, list) else None
        if kind == b"message":
            _, channel, payload = response
            task_id = self._subscribed.get(channel)
            if task_id is not None and self._deliver(
                task_id, partial(self._backend.decode_result, payload)
            ):
                self._unwanted[channel] = None
        elif kind == b"subscribe":
            subscribing = self._confirming[0]
            subscribing[1] -= 1
            if not subscribing[1]:
                for channel in subscribing[0]:
                    if channel in self._subscribed:
                        self._unknown[channel] = self._subscribed[channel]
                self._confirming.popleft()

    def _on_looked_up(self, response: Any) -> None:
        for task_id, payload in zip(self._looking_up.popleft(), response):
            if payload is not None and self._deliver(
                task_id, partial(self._backend.decode_result, payload), stored=True
            ):
                self.drop(task_id)

    # -- the health of the connections

    def _look_after(self, now: float) -> None:
        if self._pubsub.check(now, self._settings.heartbeat):
            self._pubsub.send([("PING",)])
        if self._lookup.check(now, self._settings.heartbeat):
            self._looking_up.append([])
            self._lookup.send([("PING",)])
        if now - self._reconciled > self._settings.reconcile_interval:
            # Pub/sub has no replay, so a message that was lost is made up for here.
            self._reconciled = now
            self._unknown.update(self._channels())


class Link:
    """One open connection of redis-py, read without ever blocking."""

    def __init__(self, pool: Any) -> None:
        self._connection = pool.make_connection()
        self._connection.connect()
        self._reader: Any = _hiredis_reader() if hiredis else None
        #: When something arrived last, and when the server was asked to answer.
        self._heard = time.monotonic()
        self._asked = 0.0

    @property
    def _socket(self) -> Any:
        # The one private name of redis-py, which has no other way to the socket.
        return self._connection._sock

    def fileno(self) -> int:
        descriptor: int = self._socket.fileno()
        return descriptor

    def send(self, commands: Iterable[tuple[Any, ...]]) -> None:
        packed = self._connection.pack_commands(commands)
        self._connection.send_packed_command(packed, check_health=False)

    def responses(self) -> Iterator[Any]:
        """Yield all that has arrived, and leave an incomplete rest for the next time.

        :raises ConnectionError: where the connection has ended.
        """
        self._heard = time.monotonic()
        try:
            with not_blocking(self._socket):
                yield from self._parsed_by_hiredis() if self._reader else self._parsed_by_redis_py()
        except (RedisError, OSError) as exc:
            if not nothing_there(exc):
                raise

    def _parsed_by_redis_py(self) -> Iterator[Any]:
        while True:
            yield self._connection.read_response(disconnect_on_error=False)

    def _parsed_by_hiredis(self) -> Iterator[Any]:
        # redis-py uses hiredis as well, and adds more to it than hiredis itself takes.
        sock, reader = self._socket, self._reader
        while True:
            response = reader.gets()
            if response is INCOMPLETE:
                data = sock.recv(READ_SIZE)
                if not data:
                    raise ConnectionError("Connection closed by server.")
                reader.feed(data)
            elif isinstance(response, RedisError):
                raise response
            else:
                yield response

    def due(self, heartbeat: float) -> float:
        """When :meth:`check` has something to say."""
        return max(self._heard, self._asked) + heartbeat

    def check(self, now: float, heartbeat: float) -> bool:
        """Whether a PING is due, as nothing was heard for *heartbeat* seconds.

        :raises ConnectionError: where the last one was not answered for as long again.
        """
        if now < self.due(heartbeat):
            return False
        if self._asked > self._heard:
            raise ConnectionError(f"Redis has not answered a PING for {heartbeat:g} s.")
        self._asked = now
        return True

    def close(self) -> None:
        self._connection.disconnect()


def _hiredis_reader() -> Any:
    return hiredis.Reader(
        protocolError=InvalidResponse, replyError=_reply_error, notEnoughData=INCOMPLETE
    )


def _reply_error(text: str) -> RedisError:
    return REFUSALS.get(text.partition(" ")[0], ResponseError)(text)


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk
