"""What has come over a message queue, for those who ask later: nothing else keeps it."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from contextlib import suppress
from typing import Any, NamedTuple

from ...errors import ResultEvicted
from ...notices import Seldom
from ...quoting import quoted
from ..decoding import loads

__all__ = ("Buffer", "Payload")

logger = logging.getLogger(__name__)

#: Bytes of results that are kept although somebody has got them, for who asks once more.
READ_SIZE = 16 * 1024 * 1024

#: How many evicted results are remembered, in sizes of the buffer. With those that are kept that
#: makes 100,000, unless the buffer has another size.
MEMORY = 9

#: States on the way that are remembered, to be known where the broker sends them again: more than
#: are ever handed over without being acknowledged.
RECENT = 2_000

#: Results in the hands of the user that are known of: more are kept like those that nobody holds.
HELD = 100_000


class Payload(NamedTuple):
    """A state as it was sent. Each who asks decodes it anew, and owns what it gets."""

    body: Any
    content_type: str | None
    content_encoding: str | None
    #: Whether it is the task's last state.
    last: bool
    #: The number of the connection that it came over; 0: the broker had sent it before, perhaps
    #: over one that broke.
    connection: int = 0

    @property
    def again(self) -> bool:
        """Whether the broker had sent it before."""
        return not self.connection

    def decode(self, accept: Any) -> Any:
        return loads(self.body, self.content_type, self.content_encoding, accept)


class Buffer:
    """Task id → the latest :class:`Payload`.

    The drain loop writes. Anybody may :meth:`get`, :meth:`note_got`, :meth:`note_asked`,
    :meth:`begin`, :meth:`hold`, :meth:`release` and :meth:`forget`, in any thread: so what moves is
    put in its new place before it is taken from the old one, and the loop alone counts.

    :param limit: how many are kept that nobody has got. The oldest go first, those last whose
        ``AsyncResult`` lives.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        #: The number of the connection that states come over.
        self.connection = 0
        self._unread: OrderedDict[str, Payload] = OrderedDict()
        #: The same, of results that somebody holds, and whose turn to go it was.
        self._kept: OrderedDict[str, Payload] = OrderedDict()
        #: Results that somebody holds: an ordered set. And those of the kept that are let go.
        self._held: OrderedDict[str, None] = OrderedDict()
        self._released: deque[str] = deque()
        #: Those of them whose state somebody has seen.
        self._asked: set[str] = set()
        self._read: OrderedDict[str, Payload] = OrderedDict()
        #: Those that somebody got, in any thread, since the loop looked.
        self._got: deque[str] = deque()
        #: Bytes of each of these, and of all, as far as the loop knows.
        self._sizes: dict[str, int] = {}
        self._size = 0
        #: Those that were forgotten since the loop looked.
        self._forgotten: deque[str] = deque()
        #: Last states that were dropped although nobody had asked for them.
        self.evictions = 0
        self._reported = 0
        self._lines = Seldom()
        #: Their task ids; an id itself would take twice as much.
        self._evicted = _Hashes(MEMORY * limit)
        #: The states on the way that have come last.
        self._recent = _Hashes(RECENT)

    def __len__(self) -> int:
        return len(self._unread) + len(self._kept)

    def _unread_of(self, task_id: str) -> Payload | None:
        return self._unread.get(task_id) or self._kept.get(task_id)

    def _known(self, task_id: str) -> Payload | None:
        return self._unread_of(task_id) or self._read.get(task_id)

    def get(self, task_id: str) -> Payload | None:
        """The latest state of a task; None: none has come so far.

        :raises ResultEvicted: where the last one has come, and was dropped.
        """
        payload = self._known(task_id)
        if payload is None and hash(task_id) in self._evicted:
            raise ResultEvicted(
                f"The result of task {quoted(task_id)} has come, and is no longer kept, as many "
                "have come after it. Ask sooner, raise result_drainer_buffer, or set "
                "ignore_result for tasks whose results nobody reads.",
                task_id,
            )
        return payload

    def note_got(self, task_id: str) -> None:
        """Somebody has got the state of this task: it is not what is dropped next."""
        self._got.append(task_id)

    def note_asked(self, task_id: str) -> None:
        """Somebody has seen the state of this task, and may still want the result."""
        if self._unread_of(task_id) is not None:
            self._asked.add(task_id)
            if self._unread_of(task_id) is None:  # taken just now, and with it nothing
                self._asked.discard(task_id)

    def begin(self, task_id: str) -> None:
        """A task of this id is sent: what another one of the same id has left is not its own."""
        self.forget(task_id)
        self._evicted.discard(hash(task_id))

    def hold(self, task_id: str) -> None:
        """A task is sent, and its ``AsyncResult`` given to somebody."""
        self._held[task_id] = None
        if len(self._held) > HELD:
            with suppress(KeyError):  # another thread was faster
                self._held.popitem(last=False)

    def release(self, task_id: str) -> None:
        """It is being finalised: neither lock nor switch, and nothing is raised."""
        self._held.pop(task_id, None)
        if task_id in self._kept:
            self._released.append(task_id)

    def forget(self, task_id: str) -> None:
        """Nobody will ask for it."""
        self._take_unread(task_id)
        if self._read.pop(task_id, None) is not None:
            self._forgotten.append(task_id)

    # -- for the drain loop

    def put(self, task_id: str, payload: Payload, read: bool) -> bool:
        """Keep *payload*, unless something newer is there; return whether it says something new.

        :param read: somebody gets it just now.
        """
        known = self._known(task_id)
        if not payload.last and (
            (known is not None and self._is_newer(known, payload))
            or self._has_come(task_id, payload)
        ):
            return False  # overtaken, or sent again
        self._keep(task_id, payload, read)
        return True

    def _is_newer(self, known: Payload, payload: Payload) -> bool:
        """Whether a state that comes now is older than what is known.

        What comes again was sent over an earlier connection, so before all that this one is the
        first to bring. The broker takes it back only when it notices that the earlier one is lost.
        """
        return known.last or (payload.again and known.connection == self.connection)

    def _has_come(self, task_id: str, payload: Payload) -> bool:
        """Whether this very state was here, of what comes again: others have come since."""
        state = hash((task_id, payload.body))
        if payload.again and state in self._recent:
            return True
        self._recent.add(state)
        return False

    def _keep(self, task_id: str, payload: Payload, read: bool) -> None:
        if read or task_id in self._read:
            self._put_read(task_id, payload)
            self._take_unread(task_id)
            return
        self._unread[task_id] = payload
        with suppress(KeyError):  # forgotten just now
            self._unread.move_to_end(task_id)
        self._kept.pop(task_id, None)
        if len(self) > self.limit:
            self.mark_read()  # a message may overtake the mailbox's word of what was got
        if len(self) > self.limit:
            self._evict()

    def mark_read(self) -> None:
        """Take note of what somebody has got."""
        while self._got:
            task_id = self._got.popleft()
            payload = self._unread_of(task_id)
            if payload is not None:
                self._put_read(task_id, payload)
                self._take_unread(task_id)

    def _put_read(self, task_id: str, payload: Payload) -> None:
        self._read[task_id] = payload
        self._count(task_id, len(payload.body))
        while self._forgotten:
            forgotten = self._forgotten.popleft()
            if forgotten not in self._read:  # nor put here again since
                self._count(forgotten, 0)
        # The newest stays, however large: who has seen that it is ready gets it next.
        while len(self._read) > 1 and (self._size > READ_SIZE or len(self._read) > self.limit):
            with suppress(KeyError):  # all forgotten just now
                oldest, dropped = self._read.popitem(last=False)
                self._count(oldest, 0)
                self._remember(oldest, dropped)

    def _count(self, task_id: str, size: int) -> None:
        self._size += size - self._sizes.pop(task_id, 0)
        if size:
            self._sizes[task_id] = size

    def _take_unread(self, task_id: str) -> None:
        self._unread.pop(task_id, None)
        self._kept.pop(task_id, None)
        self._asked.discard(task_id)

    def _evict(self) -> None:
        evicted = self._oldest()
        if evicted is None:
            return  # all forgotten just now
        task_id, payload = evicted
        self._remember(task_id, payload)
        if task_id in self._asked:
            self._asked.discard(task_id)
        elif payload.last:
            self.evictions += 1
            self._report(task_id)

    def _oldest(self) -> tuple[str, Payload] | None:
        """Take out what is to go next; None: there is nothing."""
        while self._released:
            task_id = self._released.popleft()
            payload = self._kept.pop(task_id, None)
            if payload is not None:
                return task_id, payload
        with suppress(KeyError, RuntimeError, StopIteration):  # another thread takes some out
            while True:
                task_id = next(iter(self._unread))
                if task_id not in self._held:
                    return task_id, self._unread.pop(task_id)
                self._kept[task_id] = self._unread[task_id]
                del self._unread[task_id]
                if task_id not in self._held:
                    self._released.append(task_id)  # let go just now
        with suppress(KeyError):
            return self._kept.popitem(last=False)
        return None

    def _remember(self, task_id: str, payload: Payload) -> None:
        if payload.last:  # else a further state will come
            self._evicted.add(hash(task_id))

    def _report(self, task_id: str) -> None:
        if self._lines.due:
            logger.warning(
                "Dropped %d results (%d in all) that nobody has asked for, the last one that of "
                "task %s: more than %d had come. See result_drainer_buffer.",
                self.evictions - self._reported,
                self.evictions,
                quoted(task_id),
                self.limit,
            )
            self._reported = self.evictions
            self._lines.said()


class _Hashes:
    """The newest hashes of what was here. The drain loop adds, anybody discards.

    :param limit: how many.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._hashes: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, value: int) -> bool:
        return value in self._hashes

    def add(self, value: int) -> None:
        self._hashes.pop(value, None)
        self._hashes[value] = None
        if len(self._hashes) > self._limit:
            with suppress(KeyError):  # all discarded just now
                self._hashes.popitem(last=False)

    def discard(self, value: int) -> None:
        self._hashes.pop(value, None)
