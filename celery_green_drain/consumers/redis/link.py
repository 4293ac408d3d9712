"""One connection to Redis: commands go out in order, and each is answered in that order.

Redis keeps the order of what it sends on a connection, and everything here rests on that: a reply
belongs to the oldest command under way. With RESP3 messages are pushes, which a reply cannot be
taken for, so that one connection subscribes and asks. With RESP2 a connection that subscribes
can do nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    InvalidResponse,
    MasterDownError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry

from ...clock import monotonic
from ...internals import redis_socket
from ...sockets import not_blocking, nothing_there
from ..base import OutOfStep
from ..reading import Reading

try:
    import hiredis
except ImportError:
    hiredis = None  # type: ignore[assignment]

__all__ = (
    "MUCH",
    "RESP3",
    "Command",
    "Link",
    "NoPushes",
    "NotReady",
    "Readings",
    "Unusable",
    "drainer_params",
    "raise_if_later",
)

#: The class of what Redis sends unasked for with RESP3; hiredis before 3.2 has none.
PushNotification: Any = getattr(hiredis, "PushNotification", None)

#: Whether RESP3 can be spoken, and pushes be told from replies.
RESP3 = PushNotification is not None and redis.VERSION >= (5,)

#: Bytes read from the socket at once: at first, and as long as each read is full. For a native
#: thread each is a chance to lose the interpreter to another one, for as long as that likes.
READ_SIZE, FULL_READ_SIZE = 64 * 1024, 1024 * 1024

#: Bytes that hiredis is given of them at once. It moves all that it has not parsed time and again,
#: which for each of thousands of messages takes longer than to parse it.
BITE = 16 * 1024

NOTHING = memoryview(b"")

#: How much of a result anything else counts, as it wakes few: confirmations, states on the way.
LIGHT = 0.1

#: Results that came at once, or the like, after which more are to be expected.
MUCH = 10

#: What hiredis says where a response is not complete. It has a value for all else.
INCOMPLETE = object()

#: Errors that say that the server wants another password, by their first word.
CREDENTIALS = {"NOAUTH", "WRONGPASS"}

#: Errors of a server that will answer later, by their first word.
LATER = {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "TRYAGAIN"}

#: The same as redis-py's own parser tells them.
LATER_AS_PARSED = (BusyLoadingError, ClusterDownError, MasterDownError, TryAgainError)

#: What a connection that subscribes is sent, other than messages.
CONFIRMATIONS = {b"subscribe": "SUBSCRIBE", b"unsubscribe": "UNSUBSCRIBE"}

#: What a connection of RESP2 that subscribes is sent.
PUSHES = {b"message", *CONFIRMATIONS}


#: Key → who reads it.
Readings = Mapping[bytes, Sequence[Reading]]

NOBODY_READS: Readings = {}


class Command:
    """A command under way.

    :param name: such as ``SUBSCRIBE``.
    :param keys: its arguments, in order, and what each stands for.
    :param answered: called with the command, and the reply or the error; None for a confirmation.
    :param readings: who reads some of the keys, and perhaps some of other commands.
    """

    __slots__ = ("_missing", "answered", "keys", "name", "readings", "sent")

    def __init__(
        self,
        name: str,
        keys: dict[bytes, Any],
        answered: Callable[[Command, Any], None],
        readings: Readings = NOBODY_READS,
    ) -> None:
        self.name = name
        self.keys = keys
        self.answered = answered
        self.readings = readings
        self.sent = 0.0
        #: Channels that are not confirmed so far.
        self._missing = len(keys) if name in CONFIRMATIONS.values() else 0

    def __repr__(self) -> str:
        return f"<{self.name} of {len(self.keys)} keys>"

    def confirm(self) -> bool:
        """One channel more is confirmed; return whether that was the last one."""
        self._missing -= 1
        return not self._missing

    @property
    def is_confirmed_by_pushes(self) -> bool:
        return self._missing > 0


class Unusable(ConnectionError):
    """Raised where Redis refuses for good what a connection begins with, such as its database.

    Or redis-py does, such as an option.
    """


class NoPushes(OutOfStep):
    """Raised where the server speaks RESP3, and sends unasked what looks like a reply."""


class NotReady(ConnectionError):
    """Raised where the server serves nobody just now, and says so."""


class Link:
    """One open connection of redis-py, read without ever blocking.

    :param pool: makes the connection.
    :param subscribes: whether it is one that messages come over.
    :param resp3: whether it speaks RESP3.
    :param on_message: called with channel and payload of each message; whether it was a result.
    """

    def __init__(
        self,
        pool: Any,
        subscribes: bool,
        resp3: bool,
        on_message: Callable[[bytes, bytes], bool],
    ) -> None:
        self._subscribes = subscribes
        self._resp3 = resp3
        #: The class of what is sent unasked for; with RESP2 that of many replies as well.
        self._push = PushNotification if resp3 else list
        self._on_message = on_message
        #: Sent and not answered so far, the oldest first.
        self.under_way: deque[Command] = deque()
        #: Whether something may be there that select() knows nothing of.
        self.more = False
        #: Whether so much has come that more of it is to be expected at once.
        self.busy = False
        try:
            self._connection = pool.make_connection()
        except TypeError as exc:
            raise Unusable(f"redis-py knows no such option of result_backend: {exc}") from exc
        try:
            self._connection.connect()
        except BaseException:
            self._connection.disconnect()
            raise
        self._reader: Any = _hiredis_reader() if hiredis else None
        self._read_size = READ_SIZE
        #: What was read and the parser does not have so far.
        self._rest = NOTHING
        #: When bytes arrived last, a whole response, and an answer to a command.
        self._heard = self._parsed = self._answered = monotonic()

    def __repr__(self) -> str:
        protocol = "RESP3" if self._resp3 else "RESP2"
        return f"<Link: {protocol}, {len(self.under_way)} commands under way>"

    @property
    def _socket(self) -> Any:
        return redis_socket(self._connection)

    def fileno(self) -> int:
        descriptor: int = self._socket.fileno()
        return descriptor

    def send(self, commands: Iterable[Command]) -> None:
        """Send *commands* in one write. It waits where the server does not read."""
        packed = self._connection.pack_commands(
            [(command.name, *command.keys) for command in commands]
        )
        now = monotonic()
        for command in commands:
            command.sent = now
            self.under_way.append(command)
        self._connection.send_packed_command(packed, check_health=False)

    # -- what arrives

    def receive(self, limit: float, until: float) -> None:
        """Handle what has arrived: *limit* results at most, and nothing after *until*.

        Anything else counts for :data:`LIGHT`.

        :raises ConnectionError: where the connection has ended, or the server is not ready.
        :raises AuthenticationError: where it wants another password.
        :raises OutOfStep: where something comes that nothing asked for.
        :raises NoPushes: where it would be in step with RESP2.
        """
        self._heard = monotonic()
        push, resp3 = self._push, self._resp3
        self.more = self.busy = True
        idle = limit - MUCH
        try:
            with not_blocking(self._socket):
                for response in self._responses():
                    self._parsed = self._heard
                    result = False
                    if type(response) is not push or not (resp3 or self._is_push(response)):
                        self._handle_reply(response)
                    elif response[0] == b"message":
                        result = self._on_message(response[1], response[2])
                    else:
                        self._handle_confirmation(response)
                    limit -= 1 if result else LIGHT
                    if limit <= 0 or monotonic() > until:
                        return
        except (RedisError, OSError) as exc:
            if not nothing_there(exc):
                raise
        self.more, self.busy = False, limit < idle

    def _responses(self) -> Iterator[Any]:
        return self._parsed_by_hiredis() if self._reader else self._parsed_by_redis_py()

    def _parsed_by_redis_py(self) -> Iterator[Any]:
        while True:
            try:
                yield self._connection.read_response(disconnect_on_error=False)
            except (AuthenticationError, ResponseError) as exc:
                yield exc

    def _parsed_by_hiredis(self) -> Iterator[Any]:
        # redis-py uses hiredis as well, and adds more to it than hiredis itself takes.
        sock, reader = self._socket, self._reader
        while True:
            response = reader.gets()
            if response is INCOMPLETE:
                data = self._rest or memoryview(self._read(sock))
                reader.feed(data[:BITE])
                # An empty view of it would hold all of it.
                self._rest = data[BITE:] if len(data) > BITE else NOTHING
            else:
                yield response

    def _read(self, sock: Any) -> bytes:
        data: bytes = sock.recv(self._read_size)
        if not data:
            raise ConnectionError("Connection closed by server.")
        full = len(data) == self._read_size
        self._read_size = FULL_READ_SIZE if full else READ_SIZE
        return data

    def _is_push(self, response: list[Any]) -> bool:
        """Whether *response* is one that RESP2 sends unasked for: a reply may look like it."""
        return self._subscribes and len(response) == 3 and response[0] in PUSHES

    def _handle_reply(self, response: Any) -> None:
        if isinstance(response, Exception):
            _raise_for_all(response)
        if not self.under_way:
            raise OutOfStep(f"Redis has answered what nobody has asked: {response!r:.100}")
        command = self.under_way[0]
        if command.is_confirmed_by_pushes and not isinstance(response, Exception):
            flat = self._resp3 and isinstance(response, list) and self._is_push(response)
            raise (NoPushes if flat else OutOfStep)(
                f"Redis has answered a {command.name} with {response!r:.100}"
            )
        self._answer(response)

    def _handle_confirmation(self, response: list[Any]) -> None:
        name = CONFIRMATIONS.get(response[0])
        if name is None:
            return  # news of another kind, such as of keys that a client may cache
        command = self.under_way[0] if self.under_way else None
        if command is None or command.name != name:
            raise OutOfStep(f"Redis has confirmed what nobody has asked: {response!r:.100}")
        if command.confirm():
            self._answer(None)

    def _answer(self, reply: Any) -> None:
        command = self.under_way.popleft()
        self._answered = self._parsed
        command.answered(command, reply)

    # -- the health of the connection

    def take_for_alive(self) -> None:
        """Nobody may ask whether it lives, so the end of the connection is all that tells."""
        self._heard = monotonic()

    def due(self, heartbeat: float) -> float:
        """When :meth:`check` has something to say."""
        return self._since + heartbeat

    @property
    def _since(self) -> float:
        """Since when nothing has come that shows that the server lives, and keeps in step."""
        if not self.under_way:
            return self._heard
        since = max(self.under_way[0].sent, self._answered)
        # A large response may take its time, as long as it goes on.
        return max(since, self._heard) if self._heard > self._parsed else since

    def check(self, now: float, heartbeat: float) -> bool:
        """Whether it is to be asked if it lives, as nothing was heard for *heartbeat* seconds.

        :raises ConnectionError: where a command was not answered for so long.
        """
        if self.more or now < self.due(heartbeat):
            return False
        if self.under_way:
            raise ConnectionError(
                f"Redis has not answered a {self.under_way[0].name} for {heartbeat:g} s."
            )
        return True

    def close(self) -> None:
        self._connection.disconnect()


def drainer_params(heartbeat: float, resp3: bool) -> dict[str, Any]:
    """Parameters of redis-py for a :class:`Link`, which looks after itself.

    :param heartbeat: seconds that a command may take.
    """
    params: dict[str, Any] = {
        "socket_timeout": heartbeat,
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "decode_responses": False,
    }
    if redis.VERSION >= (5,):
        params["protocol"] = 3 if resp3 else 2
    return params


def _hiredis_reader() -> Any:
    return hiredis.Reader(
        protocolError=InvalidResponse, replyError=ResponseError, notEnoughData=INCOMPLETE
    )


def _raise_for_all(error: Exception) -> None:
    """Raise *error* if it concerns the whole connection, and not one command."""
    text = str(error)
    if _word(error) in CREDENTIALS or isinstance(error, AuthenticationError):
        raise AuthenticationError(text)
    if isinstance(error, ConnectionError):
        raise NotReady(text)
    raise_if_later(error)


def raise_if_later(error: Exception) -> None:
    """Raise :exc:`NotReady` if *error* is of a server that will answer later."""
    if _word(error) in LATER or isinstance(error, LATER_AS_PARSED):
        raise NotReady(str(error)) from error


def _word(error: Exception) -> str:
    """The first word, which is the kind of the error to Redis."""
    return str(error).partition(" ")[0]
