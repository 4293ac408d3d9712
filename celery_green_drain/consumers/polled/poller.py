"""Looks into a store that never calls, in a greenlet of its own."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Optional, Protocol

from celery import uuid

from ... import drainers
from ...drainers.base import Drainer
from ...figures import Figures
from .lookups import Found, Lookup, OneByOne, unreadable

__all__ = ("Poller",)

logger = logging.getLogger(__name__)

#: Seconds between two looks whether what is waited for still lives.
PATIENCE = 1.0

#: How often an id is looked for again that the store seems to refuse, as it may be chance: as often
#: as Celery asks a database.
ATTEMPTS = 3

#: The ids to look for next; none: rest; None: end.
Request = Optional[list[str]]

#: What a look has found, and what ended it early, if something did.
Looked = tuple[list[Found], Optional[Exception]]


class Owner(Protocol):
    """What a poller needs of its consumer."""

    figures: Figures

    @property
    def backend(self) -> Any: ...

    @property
    def drainer(self) -> Drainer: ...

    def call_store(self, function: Callable[..., Any], *args: Any) -> Any: ...

    def looked(self, *outcome: Any) -> None: ...

    def on_connected(self) -> None: ...

    def on_no_batches(self, error: Exception) -> None: ...


class Poller:
    """Looks into the store, one look at a time, from the connection's opening to its end.

    It lives in a greenlet (or thread) of its own, and so does its connection.
    """

    def __init__(self, consumer: Owner) -> None:
        self._consumer = consumer
        self._drainer = consumer.drainer
        self._traits = consumer.backend.traits
        self._use(self._open())
        #: Whether the store has answered.
        self.proven = False
        #: Whether a look is under way, or what it has found is handed over.
        self.busy = False
        #: Whether the connection is closed until the next look.
        self.resting = False
        #: Whether the loop was told of its end.
        self.ended = False
        self.forgotten = False
        self._requests: deque[Request] = deque()
        self._signal = self._drainer.signal()
        #: What runs now, to be discarded in a child.
        self.spawned: list[object] = [self._drainer.spawn_apart(self._run)]

    def _open(self, one_by_one: bool = False) -> Lookup:
        # Not kept: who polls is not to keep the backend alive, and so its app.
        lookup: Lookup = self._consumer.backend.lookup(one_by_one)
        return lookup

    def _use(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._width = self._traits.parallel if lookup.parallel else 1
        # A store that takes one call at a time takes ours in the same lane as all others.
        self._call: Callable[..., Any] = (
            self._consumer.call_store
            if self._traits.parallel == 1
            else drainers.fitting().lanes(self._width, self._traits.blocks)
        )

    @property
    def lives(self) -> bool:
        """Whether there is a greenlet that looks, or that has told how it ended."""
        return self.ended or self._drainer.lives(self.spawned[0])

    def look(self, task_ids: list[str]) -> None:
        """Begin to look for *task_ids*. What is found goes to the loop."""
        self.resting = False
        self._ask(task_ids)
        # Not before: interrupted in between, it would be busy for ever.
        self.busy = True
        self._consumer.figures.lookups += 1

    def rest(self) -> None:
        """Close the connection, if there is one: the next look is far off, and opens it anew."""
        if self._lookup.connects:
            self.resting = True
            self._ask([])

    def close(self) -> None:
        """End, and close the connection, once the look under way is over."""
        self._ask(None)

    def _ask(self, request: Request) -> None:
        self._requests.append(request)
        self._signal.set()

    def _run(self) -> None:
        looking = False
        try:
            while True:
                self._signal.wait()
                # The new signal is in place before the requests are looked at.
                self._signal = self._drainer.signal()
                while self._requests:
                    task_ids = self._requests.popleft()
                    if task_ids is None:
                        return
                    if not task_ids:
                        self._close()
                        continue
                    looking = True
                    found, error = self._look(task_ids)
                    looking = False
                    self._note(found, error)
        finally:
            # Killed, if this is not the end that was asked for.
            if not self.forgotten:
                self.ended = True
                self._note([], RuntimeError("the greenlet that polls was killed"))
                if not looking:  # or a native thread may be in the middle of it
                    self._close()

    def _note(self, found: list[Found], error: Exception | None) -> None:
        self._consumer.looked(self, found, error)

    def _close(self) -> None:
        try:
            self._call(self._lookup.close)
        except Exception as exc:
            logger.debug("Closing the connection that polls failed: %r", exc)

    def _look(self, task_ids: list[str]) -> Looked:
        try:
            return self._look_for(task_ids)
        except Exception as exc:  # such as no thread to be had for a lane
            return [], exc

    def _look_for(self, task_ids: list[str]) -> Looked:
        found, error = self._try(task_ids)
        if error is None and not self.proven:
            self.proven = True
            self._consumer.on_connected()
        elif error is not None and not self.proven and not isinstance(self._lookup, OneByOne):
            return self._one_by_one(task_ids, error)
        return found, error

    def _one_by_one(self, task_ids: list[str], refusal: Exception) -> Looked:
        """The first look has failed: find out whether only the way to look for many does."""
        self._reopen(one_by_one=True)
        _, error = self._try(task_ids[:1])
        if error is not None:
            return [], refusal
        # Or it was away just now, and is back.
        self._reopen()
        found, error = self._try(task_ids)
        if error is not None:
            self._reopen(one_by_one=True)
            self._consumer.on_no_batches(refusal)
            return self._look_for(task_ids)
        self.proven = True
        self._consumer.on_connected()
        return found, None

    def _reopen(self, one_by_one: bool = False) -> None:
        self._close()
        self._use(self._open(one_by_one=one_by_one))

    def _try(self, task_ids: list[str]) -> Looked:
        """Look for *task_ids*, in as many greenlets as the store takes calls."""
        size = self._lookup.chunk
        chunks = deque(task_ids[at : at + size] for at in range(0, len(task_ids), size))
        found: list[Found] = []
        errors: list[Exception] = []
        work = partial(self._work, chunks, found, errors)
        others = []
        for _ in range(min(self._width, len(chunks)) - 1):
            done = self._drainer.signal()
            spawned = self._drainer.spawn(work, done)
            others.append((spawned, done))
            self.spawned.append(spawned)
        work()
        for spawned, done in others:
            # One that is killed before it runs says nothing, and has taken no chunk.
            while not done.wait(PATIENCE) and self._drainer.lives(spawned):
                pass
        del self.spawned[1:]
        return found, errors[0] if errors else None

    def _work(
        self,
        chunks: deque[list[str]],
        found: list[Found],
        errors: list[Exception],
        done: Any = None,
    ) -> None:
        try:
            while chunks and not errors:
                try:
                    chunk = chunks.popleft()
                except IndexError:
                    return  # another lane was faster
                found.extend(self._find(chunk))
        except Exception as exc:
            errors.append(exc)
        finally:
            if done is not None:
                done.set()

    def _find(self, task_ids: list[str]) -> list[Found]:
        try:
            return self._look_up(task_ids)
        except Exception as exc:
            error = exc
        # Either the store is gone; or one of the ids is such that it refuses the whole, and
        # whoever waits for that one must not stop all others.
        self._prove_that_it_answers(error)
        if len(task_ids) > 1:
            half = len(task_ids) // 2
            return self._find(task_ids[:half]) + self._find(task_ids[half:])
        for _ in range(ATTEMPTS):
            try:
                return self._look_up(task_ids)
            except type(error):
                if self._lookup.lost:  # again; where it is by this id, looking one by one shows it
                    raise
            self._prove_that_it_answers(error)
        return [unreadable(task_ids[0], error)]

    def _prove_that_it_answers(self, error: Exception) -> None:
        """:raises Exception: *error*, which tells more than that of this look, if it does not."""
        try:
            self._look_up([uuid()])
        except Exception:
            raise error from None

    def _look_up(self, task_ids: list[str]) -> list[Found]:
        found: list[Found] = self._call(self._lookup.find, task_ids)
        return found
