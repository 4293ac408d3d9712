"""Results from Redis: what is subscribed to, and what is looked up.

Celery stores a result and publishes it on a channel named as its key, in one transaction. For a
wait, SUBSCRIBE and MGET go out in one write, for all that have gathered meanwhile at once. With
RESP3 that is one connection, whose order Redis keeps:

    SUBSCRIBE, MGET → confirmed, stored states

What was stored before is found by the MGET, what comes later by the subscription, so no result
slips between, and a wait takes one round trip. With RESP2 there are two connections, so what the
first look did not find is looked up once more after the confirmation.

All is bounded: so many ids are under way, and the next go out when those are answered. An error
in reply is an answer as well, and concerns those whose command it answers: what the server
refuses for good is done in another way, as stock Celery would do it.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain, islice
from typing import Any, Protocol

from celery import states
from kombu.exceptions import DecodeError

from ...clock import monotonic
from ...drainers.mailbox import Mailbox
from ...figures import Figures
from ...pending import Meta
from ...settings import Settings
from ...table import PendingTable
from ..base import OutOfStep
from ..decoding import JSON, NOT_PLAIN, SUCCESS, is_on_the_way, plain
from ..reading import Reading
from ..session import Session
from .elsewhere import StoreCheck
from .link import MUCH, Command, Link, Readings, drainer_params

__all__ = ("NEVER", "NOBODY", "Owner", "RedisSession", "is_never")

#: Task ids in one SUBSCRIBE or MGET: bounds the server's pause and the reply's size.
CHUNK = 1000

#: Commands of each kind that may be under way at once.
WINDOW = 4

#: Results that one turn hands over, or states on the way, see :data:`.link.LIGHT`: so few that who
#: is woken by them finds in the processor's cache what the loop has just touched.
BATCH = 100

#: The same for a second that others have run while more was there: where they take long, turns are
#: rare, and a flood is not to outrun the loop.
RATE = 50_000

#: Seconds that one turn takes for that at most.
SLICE = 0.05

#: Seconds that ids to subscribe to may gather while others are under way.
GATHER = 0.002

#: Seconds that ids to unsubscribe from may gather, where nothing else is to be sent; and that
#: results which come one upon the other may pause.
LINGER = 0.05

#: How many of them may gather while results come one upon the other, which go first: some 300 bytes
#: each here, and less in Redis.
PILE = 50 * CHUNK

#: Seconds until results are looked for again after a look that has failed.
AGAIN = 5.0

#: The task whose key and channel a heartbeat names, where the user may not PING.
NOBODY = "celery-green-drain"


#: Errors that say that a command will never be allowed, by a part of their text, in lower case.
NEVER = ("no permission", "noperm", "crossslot", "unknown command", "not allowed", "disabled")


#: Stored states to be handed over later: of which tasks, and what reads them.
Held = list[tuple[str, Callable[[], Meta]]]


class Owner(Protocol):
    """What a session needs of its consumer."""

    table: PendingTable
    settings: Settings
    figures: Figures
    #: Commands that are refused for good.
    refused: set[str]
    #: Ids under which the state of another task was found.
    strange: set[str]
    #: Whether the worker stores where this process looks.
    check: StoreCheck

    @property
    def backend(self) -> Any: ...

    @property
    def mailbox(self) -> Mailbox: ...

    def key(self, task_id: str) -> bytes: ...

    def refuse(self, name: str, error: Exception, instead: str) -> None: ...

    def complain(self, error: Exception) -> None: ...

    def deliver(self, task_id: str, decode: Callable[[], Meta], stored: bool = False) -> bool: ...


class RedisSession(Session):
    """One connection, or two, and what was asked over them.

    :param resp3: whether to speak RESP3, with one connection for everything.
    :raises ResponseError: where Redis refuses what a connection begins with.
    :raises ConnectionError: where one cannot be opened.
    """

    def __init__(self, consumer: Owner, resp3: bool) -> None:
        self._consumer = consumer
        self._backend = weakref.proxy(consumer.backend)
        self._table = consumer.table
        self._mailbox = consumer.mailbox
        self._heartbeat = consumer.settings.heartbeat
        self._reconcile_interval = consumer.settings.reconcile_interval
        self._refused = consumer.refused
        self._figures = consumer.figures
        self._table.doubt()
        #: Channel → task id, for all that the server knows, or will know once it has read.
        self._subscribed: dict[bytes, str] = {}
        #: The same for what is to be subscribed to; together, or one by one as one was refused.
        self._wanted: dict[bytes, str] = {}
        self._singles: dict[bytes, str] = {}
        #: The same for what is to be looked up.
        self._unknown: dict[bytes, str] = {}
        #: What is to be unsubscribed from, and since when.
        self._unwanted: dict[bytes, None] = {}
        self._left_at = 0.0
        #: When results that come one upon the other are taken to be over, unless more come by then.
        self._quiet_at = 0.0
        #: What may not be subscribed to, and why.
        self._refusals: dict[bytes, Exception] = {}
        #: Keys that others read, and who.
        self._readings: dict[bytes, list[Reading]] = {}
        #: What else is to be asked.
        self._asked: list[Command] = []
        #: Ids of the table that are still to be asked for anew, and to be looked up once more.
        self._backlog = deque(self._table)
        self._reconciling: deque[str] = deque()
        #: When that was begun last, and when it is due.
        self._reconciled = monotonic()
        self._reconcile_at = self._reconciled + self._reconcile_interval
        #: The newest states on the way that have come in this turn: task id → what tells it.
        self._newest: dict[str, bytes] = {}
        #: What is accepted, where states need no more than that to be decoded.
        self._accept = consumer.backend.accept if consumer.backend.decodes_plainly else None
        self._is_json = consumer.backend.content_type == JSON
        #: Stored states that came, to be handed over.
        self._found: deque[tuple[bytes, str, Any]] = deque()
        self._subscribed_at = 0.0
        #: Why nothing can be subscribed to, where that is so.
        self._never_subscribes: Exception | None = None
        self._resp3 = resp3
        self._key = consumer.key
        self._deliver = consumer.deliver
        self._check = consumer.check
        #: Commands of each kind that are under way.
        self._under_way: Counter[str] = Counter()
        #: Those that were refused as a sign of life.
        self._vain: set[str] = set()
        self.links: tuple[Link, ...] = ()
        with ExitStack() as opened:
            opened.callback(self._give_up_readings)
            pool = self._backend.drainer_pool(**drainer_params(self._heartbeat, resp3))
            self.pubsub = Link(pool, True, resp3, self._on_message)
            opened.enter_context(closing(self.pubsub))
            self.lookup = self.pubsub
            if not resp3:
                self.lookup = Link(pool, False, False, self._on_message)
                opened.enter_context(closing(self.lookup))
            self.links = (self.pubsub,) if resp3 else (self.pubsub, self.lookup)
            for link in self.links:
                self._mailbox.register(link)
                opened.callback(self._mailbox.unregister, link)
            self._opened = opened.pop_all()

    def __repr__(self) -> str:
        return (
            f"<RedisSession: {len(self._subscribed)} subscriptions, "
            f"{len(self._wanted) + len(self._backlog)} wanted, {self.links!r}>"
        )

    @property
    def connections(self) -> int:
        return len(self.links)

    @property
    def subscriptions(self) -> int:
        """Channels that are subscribed to."""
        return len(self._subscribed)

    @property
    def is_looking_where_it_listens(self) -> bool:
        """Whether a look-up is under way on the connection that messages come over."""
        names = {command.name for command in self.pubsub.under_way}
        return not names.isdisjoint(("MGET", "GET"))

    def close(self) -> None:
        self._opened.close()

    def _give_up_readings(self) -> None:
        under_way = chain(self._asked, *(link.under_way for link in self.links))
        for readings in (*(command.readings for command in under_way), self._readings):
            for reading in chain.from_iterable(readings.values()):
                reading.give_up()
        self._readings.clear()

    def turn(self, timeout: float | None) -> None:
        self._send()
        patience, left = self._patience(timeout), monotonic()
        ready = self._mailbox.wait(patience, any(link.busy for link in self.links))
        now, unwanted = monotonic(), len(self._unwanted)
        limit, until = BATCH, now + SLICE
        if not patience:
            limit = max(limit, int((now - left) * RATE))
        # Messages first: where one and the stored state are the same, the message is first.
        for link in self.links:
            if link in ready or link.more:
                link.receive(limit, until)
            else:
                link.busy = False
        if len(self._unwanted) - unwanted >= MUCH:
            self._quiet_at = now + LINGER
        if self._newest:
            self._tell_newest()
        self._hand_over(limit, until)
        self._look_after(monotonic())

    def _patience(self, timeout: float | None) -> float:
        """How long to wait for something to arrive, in seconds."""
        if self._found or any(link.more for link in self.links):
            return 0.0
        now = monotonic()
        waits = [link.due(self._heartbeat) - now for link in self.links]
        if timeout is not None:
            waits.append(timeout)
        if self._unwanted and not self._is_full("UNSUBSCRIBE"):
            waits.append(max(self._left_at + LINGER, self._quiet_at) - now)
        if self._wanted and not self._is_full("SUBSCRIBE"):
            waits.append(self._subscribed_at + GATHER - now)
        return max(0.0, min(waits))

    # -- what is to be sent

    def want(self, channel: bytes, task_id: str) -> None:
        self._unwanted.pop(channel, None)  # also where the subscription was refused since
        if channel in self._subscribed:
            self._unknown[channel] = task_id
        else:
            self._wanted[channel] = task_id

    def drop(self, task_id: str) -> None:
        channel = self._key(task_id)
        self._wanted.pop(channel, None)
        self._refusals.pop(channel, None)
        if channel in self._subscribed:
            if not self._unwanted:
                self._left_at = monotonic()
            self._unwanted[channel] = None

    def read(self, reading: Reading) -> None:
        """Have *reading* answered by the next look-up."""
        self._readings.setdefault(reading.key, []).append(reading)
        self._unknown.setdefault(reading.key, "")

    @property
    def get_command(self) -> str | None:
        """What reads one key; None: the user may not."""
        return next((name for name in ("MGET", "GET") if name not in self._refused), None)

    def ask(self, name: str, argument: bytes, answered: Callable[[Any], None]) -> None:
        """Have ``name argument`` sent where results are looked up, after what was asked before.

        :param answered: called with the reply, or the error.
        """
        command = Command(name, {argument: None}, partial(self._on_asked, answered))
        self._asked.append(command)

    def _on_asked(self, answered: Callable[[Any], None], command: Command, reply: Any) -> None:
        self._under_way[command.name] -= 1
        answered(reply)

    def _is_full(self, name: str) -> bool:
        return self._under_way[name] >= WINDOW

    def _send(self) -> None:
        """Send what is wanted: a bounded number of commands, in one write for each link."""
        subscribing = self._subscriptions()
        looking = [command for wanted in subscribing for command in self._lookups_of(wanted.keys)]
        leaving = self._unsubscriptions() if self._may_leave(bool(subscribing)) else []
        subscribing += self._single_subscriptions()
        looking += self._lookups()
        looking += self._asked
        self._asked = []
        if self.pubsub is self.lookup:
            self._submit(self.pubsub, leaving + subscribing + looking)
        else:
            # First what somebody may read with, and is told of where the other write fails.
            self._submit(self.lookup, looking)
            self._submit(self.pubsub, leaving + subscribing)

    def _submit(self, link: Link, commands: list[Command]) -> None:
        if commands:
            for command in commands:
                self._under_way[command.name] += 1
            link.send(commands)
            self._mailbox.look()  # others may have run, where the write had to wait

    def _subscriptions(self) -> list[Command]:
        # While a SUBSCRIBE is under way further ids gather for a moment: that batches them.
        now = monotonic()
        gathering = self._under_way["SUBSCRIBE"] and now - self._subscribed_at < GATHER
        if gathering or self._is_full("SUBSCRIBE"):
            return []
        # Those first that have waited longest.
        chunk: dict[bytes, str] = {}
        while self._backlog and len(chunk) < CHUNK:
            task_id = self._backlog.popleft()
            if task_id in self._table:
                chunk[self._key(task_id)] = task_id
        for channel, task_id in _take(self._wanted, CHUNK - len(chunk)).items():
            if task_id in self._table:  # it may have been in the backlog as well, and come since
                chunk[channel] = task_id
        if not chunk:
            return []
        self._subscribed_at = now
        if self._never_subscribes is not None:
            self._on_subscription_refused(chunk, self._never_subscribes)
            return []
        self._subscribed.update(chunk)
        return [Command("SUBSCRIBE", chunk, self._on_subscribed)]

    def _single_subscriptions(self) -> list[Command]:
        commands: list[Command] = []
        while self._singles and self._under_way["SUBSCRIBE"] + len(commands) < CHUNK:
            channel, task_id = self._singles.popitem()
            if task_id in self._table:
                self._subscribed[channel] = task_id
                commands.append(Command("SUBSCRIBE", {channel: task_id}, self._on_subscribed))
        return commands

    def _may_leave(self, subscribing: bool) -> bool:
        """Whether it is time to unsubscribe.

        :param subscribing: whether something is sent anyway.
        """
        now = monotonic()
        if subscribing and not self.pubsub.busy:
            return True
        if now < self._quiet_at:
            return len(self._unwanted) >= PILE
        return len(self._unwanted) >= CHUNK or now - self._left_at >= LINGER

    def _unsubscriptions(self) -> list[Command]:
        if not self._unwanted or self._is_full("UNSUBSCRIBE"):
            return []
        chunk = _take(self._unwanted)
        if "UNSUBSCRIBE" in self._refused:
            return []
        for channel in chunk:
            self._subscribed.pop(channel, None)
        return [Command("UNSUBSCRIBE", chunk, self._on_unsubscribed)]

    def _lookups(self) -> list[Command]:
        """Commands for what is to be looked up, as far as there is room for them."""
        keys: dict[bytes, str] = {}
        room = CHUNK * (WINDOW - self._under_way["MGET"]) - self._under_way["GET"]
        for key in list(islice(self._unknown, max(room, 0))):
            task_id = self._unknown.pop(key)
            if key in self._readings or task_id in self._table:
                keys[key] = task_id
        while self._reconciling and len(keys) < min(room, CHUNK):
            task_id = self._reconciling.popleft()
            if task_id in self._table:
                keys[self._key(task_id)] = task_id
        return self._lookups_of(keys)

    def _lookups_of(self, keys: dict[bytes, str]) -> list[Command]:
        # From now on commands have them.
        readings: Readings = {}
        if self._readings:
            readings = {key: self._readings.pop(key) for key in keys if key in self._readings}
        if "GET" in self._refused:
            for key, task_id in keys.items():
                self._on_nothing(key, task_id, readings)
            return []
        name, size = ("GET", 1) if "MGET" in self._refused else ("MGET", CHUNK)
        chunks = _chunks(keys, size)
        commands = [Command(name, chunk, self._on_looked_up, readings) for chunk in chunks]
        self._figures.lookups += len(commands)
        return commands

    # -- what arrives

    def _on_message(self, channel: bytes, payload: bytes) -> bool:
        task_id = self._subscribed.get(channel)
        if task_id is None:
            return False
        # Most have succeeded, and are not on the way. Not ``in``, which first tries a number.
        if (payload.find(SUCCESS) < 0 or self._newest) and self._is_passing(task_id, payload):
            return False
        if not self._deliver(task_id, partial(self._decode, task_id, payload)):
            return False
        if not self._check.begun:
            self._check.begin(task_id)
        if not self._unwanted:
            self._left_at = monotonic()
        self._unwanted[channel] = None
        return True

    def _is_passing(self, task_id: str, payload: bytes) -> bool:
        """Whether *payload* is kept for the end of the turn, unless something newer comes by then.

        One task may report thousands of states a second, of which those who follow see few.
        """
        newest = self._newest
        if not (self._is_json and is_on_the_way(payload)):
            if newest:
                newest.pop(task_id, None)
            return False
        if task_id not in newest and self._table.wants_each(task_id):
            return False
        newest[task_id] = payload
        return True

    def _tell_newest(self) -> None:
        newest, self._newest = self._newest, {}
        for task_id, payload in newest.items():
            self._deliver(task_id, partial(self._decode, task_id, payload))

    def _decode(self, task_id: str, payload: bytes) -> Meta:
        """The state that *payload* tells.

        :raises OutOfStep: where it is that of another task, at the first time.
        """
        # What decode_result() of the backend does, without its calls.
        meta: Meta = plain(payload, JSON, self._accept)
        if meta is NOT_PLAIN:
            meta = self._backend.decode_result(payload)
        elif meta["status"] in states.EXCEPTION_STATES:
            meta = self._backend.meta_from_decoded(meta)
        if meta.get("task_id") != task_id:
            self._check_owner(task_id, meta)
        return meta

    def _check_owner(self, task_id: str, meta: Meta) -> None:
        owner = meta.get("task_id")
        if owner is None or "status" not in meta or str(owner) == str(task_id):
            return
        text = f"The state of task {owner!r:.100} came for task {task_id!r:.100}."
        if task_id not in self._consumer.strange:
            self._consumer.strange.add(task_id)
            raise OutOfStep(text)
        raise DecodeError(text)  # it is stored there, so it concerns this task alone

    def look_up(self, task_id: str) -> None:
        """Have the store say what there is of *task_id*."""
        self._unknown[self._key(task_id)] = task_id

    def _on_subscribed(self, command: Command, error: Exception | None) -> None:
        self._under_way["SUBSCRIBE"] -= 1
        if error is not None:
            self._on_subscription_refused(command.keys, error)
        elif self.pubsub is not self.lookup:
            # The first look was not ordered with the subscription.
            for channel in command.keys:
                if channel in self._subscribed:
                    self._unknown[channel] = self._subscribed[channel]

    def _on_subscription_refused(self, channels: dict[bytes, str], error: Exception) -> None:
        for channel in channels:
            self._subscribed.pop(channel, None)
        never = is_never(error) and "channel" not in str(error)
        if len(channels) > 1 and not never:
            self._singles.update(channels)  # one of them may be the cause
            return
        if never:
            self._never_subscribes = error
            self._consumer.refuse("SUBSCRIBE", error, "only what is stored already is found")
        for channel, task_id in channels.items():
            # Who waits for it is told, unless it turns out to be stored.
            self._refusals[channel] = error
            self._unknown[channel] = task_id

    def _on_unsubscribed(self, command: Command, error: Exception | None) -> None:
        self._under_way["UNSUBSCRIBE"] -= 1
        if error is not None:
            self._consumer.refuse("UNSUBSCRIBE", error, "subscriptions stay until it reconnects")

    def _on_looked_up(self, command: Command, reply: Any) -> None:
        self._under_way[command.name] -= 1
        if isinstance(reply, Exception):
            self._on_look_refused(command, reply)
            return
        values = [reply] if command.name == "GET" else reply
        if not isinstance(values, list) or len(values) != len(command.keys):
            raise OutOfStep(f"Redis has answered {command!r} with {values!r:.100}")
        for (key, task_id), value in zip(command.keys.items(), values):
            if isinstance(value, Exception):  # of a proxy, for one of several servers
                self._on_key_refused(key, task_id, command.readings, value)
                continue
            for reading in command.readings.get(key, ()):
                reading.answer(value)
            if value is None:
                if self._refusals:
                    self._tell_refusal(key, task_id)
            elif task_id in self._table:
                self._found.append((key, task_id, value))

    def _on_look_refused(self, command: Command, error: Exception) -> None:
        # Forbidden may be the command, or one of the keys.
        never = is_never(error) and not (" permission" in str(error) and " key" in str(error))
        if command.name == "MGET":
            if never:
                self._consumer.refuse("MGET", error, "results are looked up one by one")
            # Not sent from here, where the socket must not wait.
            for key, task_id in command.keys.items():
                if not never and self._may_wait(key, task_id, error):
                    self._complain(error)
                    self._on_nothing(key, task_id, command.readings)
                else:
                    again = Command("GET", {key: task_id}, self._on_looked_up, command.readings)
                    self._asked.append(again)
            return
        ((key, task_id),) = command.keys.items()
        if never:
            self._consumer.refuse("GET", error, "results that were stored before are not seen")
            self._on_nothing(key, task_id, command.readings)
        else:
            self._on_key_refused(key, task_id, command.readings, error)

    def _on_key_refused(
        self, key: bytes, task_id: str, readings: Readings, error: Exception
    ) -> None:
        if self._may_wait(key, task_id, error):
            self._complain(error)
        elif task_id:
            self._refusals.setdefault(key, error)
        self._on_nothing(key, task_id, readings)

    def _may_wait(self, key: bytes, task_id: str, error: Exception) -> bool:
        """Whether the next look will do: it was not there at the first one, and would be sent."""
        if _is_of_key(error) or key not in self._subscribed:
            return False
        since = min((pending.since for pending in self._table.of(task_id)), default=math.inf)
        return since < self._reconciled

    def _complain(self, error: Exception) -> None:
        self._reconcile_at = min(self._reconcile_at, monotonic() + AGAIN)
        self._consumer.complain(error)

    def _on_nothing(self, key: bytes, task_id: str, readings: Readings) -> None:
        """There is nothing stored under *key*, as far as can be seen."""
        for reading in readings.get(key, ()):
            reading.give_up()
        self._tell_refusal(key, task_id)

    def _tell_refusal(self, key: bytes, task_id: str) -> None:
        """If nothing more can come for *task_id*, whoever waits for it is told why.

        :param task_id: empty where nobody did, and the key was read only.
        """
        error = self._refusals.pop(key, None) if task_id else None
        if error is not None:
            self._table.fail([task_id], error)
            self.drop(task_id)

    def _hand_over(self, limit: int, until: float) -> None:
        """Hand over stored states that have come: some now, the rest in the next turns."""
        held: Held = []
        for _ in range(limit):
            if not self._found or monotonic() > until:
                break
            key, task_id, value = self._found.popleft()
            decode = partial(self._decode, task_id, value)
            if self._resp3:
                last = self._deliver(task_id, decode, stored=True)
            else:
                last = self._deliver_in_order(task_id, decode, held)
            if last:
                self.drop(task_id)
            else:
                self._tell_refusal(key, task_id)
        if held and not self._ping(self.pubsub, partial(self._on_caught_up, held)):
            self._tell(held)

    def _deliver_in_order(self, task_id: str, decode: Callable[[], Meta], held: Held) -> bool:
        """The same with RESP2, where messages that are older may still be on the way."""
        try:
            on_the_way = decode()["status"] not in states.READY_STATES
        except OutOfStep:
            raise
        except Exception:
            on_the_way = False  # it is told once more, and to whom it concerns
        if on_the_way:
            held.append((task_id, decode))
            return False
        return self._deliver(task_id, decode, stored=True)

    def _on_caught_up(self, held: Held, command: Command, reply: Any) -> None:
        """All messages that were sent before *held* was looked up have been handed over."""
        self._on_pong(command, reply)
        self._tell(held)

    def _tell(self, held: Held) -> None:
        for task_id, decode in held:
            self._deliver(task_id, decode, stored=True)

    # -- the health of the connections

    def _look_after(self, now: float) -> None:
        for link in self.links:
            if link.check(now, self._heartbeat) and not self._ping(link, self._on_pong):
                link.take_for_alive()
        if now > self._reconcile_at and not self._reconciling:
            # Pub/sub has no replay, so a message that was lost is made up for here.
            self._reconciled, self._reconcile_at = now, now + self._reconcile_interval
            self._reconciling.extend(self._table)
            # What was refused may be allowed by now.
            self._refused.clear()
            self._vain.clear()
            self._never_subscribes = None

    def _ping(self, link: Link, answered: Callable[[Command, Any], None]) -> bool:
        """Ask the server for a sign of life; return whether there is a command for that."""
        names = ["PING"]
        if link is self.pubsub:
            names.append("UNSUBSCRIBE")
        if link is self.lookup:
            names += ["GET", "MGET"]
        if link is self.pubsub:
            names.append("SUBSCRIBE")  # last, as it leaves something behind
        for name in names:
            if name not in self._refused and name not in self._vain:
                keys = {} if name == "PING" else {self._key(NOBODY): None}
                self._submit(link, [Command(name, keys, answered)])
                return True
        return False

    def _on_pong(self, command: Command, reply: Any) -> None:
        self._under_way[command.name] -= 1
        if isinstance(reply, Exception):
            self._vain.add(command.name)
            if command.name == "PING":  # all others may be refused for this key or channel alone
                self._consumer.refuse(command.name, reply, "another command asks if it lives")


def _chunks(items: dict[bytes, str], size: int) -> Iterator[dict[bytes, str]]:
    """Cut *items* into pieces of *size*: it is itself the piece where it is not larger."""
    if len(items) <= size:
        if items:
            yield items
        return
    rest = iter(items.items())
    while chunk := dict(islice(rest, size)):
        yield chunk


def _take(items: dict[bytes, Any], limit: int | None = None) -> dict[bytes, Any]:
    """Take *limit* of *items* out of them, or a chunk, the oldest first."""
    limit = CHUNK if limit is None else limit
    if len(items) <= limit:
        chunk = dict(items)
        items.clear()
        return chunk
    chunk = dict(islice(items.items(), limit))
    for key in chunk:
        del items[key]
    return chunk


def _is_of_key(error: Exception) -> bool:
    """Whether *error* says that this key will never be read."""
    return "permission" in str(error) or str(error).startswith("WRONGTYPE")


def is_never(error: Exception, words: Iterable[str] = NEVER) -> bool:
    text = str(error).lower()
    return any(word in text for word in words)
