"""What is kept of a message queue: its accounts, whoever interferes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_green_drain import ResultEvicted
from celery_green_drain.consumers.rpc import buffer
from celery_green_drain.consumers.rpc.buffer import Buffer, Payload


class Body(bytes):
    """A body in whose middle another thread runs: when its size is looked at."""

    meanwhile: Callable[[], object] | None = None

    def __len__(self) -> int:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return super().__len__()


def payload(body: bytes = b"x" * 1000) -> Payload:
    return Payload(body, None, None, True)


@pytest.mark.parametrize("forgotten", [["a"], ["b"], ["a", "b"]])
def test_what_is_forgotten_in_the_middle_is_counted_once(forgotten: list[str]) -> None:
    kept = Buffer(10)
    kept.put("a", payload(), read=True)
    body = Body(b"x" * 1000)
    body.meanwhile = lambda: [kept.forget(task_id) for task_id in forgotten]
    kept.put("b", payload(body), read=True)
    for task_id in "ab":
        kept.forget(task_id)
    kept.put("c", payload(b"x"), read=True)
    assert kept._size == 1


def test_sizes_follow_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "READ_SIZE", 5000)
    kept = Buffer(10)
    for number in range(20):
        kept.put(str(number), payload(), read=True)
        kept.put(str(number), payload(b"x" * 500), read=True)  # sent again
        if number % 3 == 0:
            kept.forget(str(number))
    assert kept._size == sum(len(one.body) for one in kept._read.values()) <= 5000
    with pytest.raises(ResultEvicted) as caught:
        kept.get("1")
    assert caught.value.task_id == "1"
    assert kept.get("19")


def test_what_was_got_just_now_is_not_dropped_next() -> None:
    kept = Buffer(2)
    kept.put("a", payload(), read=False)
    kept.put("b", payload(), read=False)
    kept.note_got("a")  # and a message comes before the loop hears of that
    kept.put("c", payload(), read=False)
    assert kept.evictions == 0
    kept.put("d", payload(), read=False)
    assert kept.evictions == 1
    assert kept.get("a")
    with pytest.raises(ResultEvicted):
        kept.get("b")


def test_what_is_evicted_once_more_is_remembered() -> None:
    kept = Buffer(1)
    for task_id in ("a", "b"):
        kept.put(task_id, payload(), read=False)
    kept.begin("a")  # its id is used again
    for task_id in (*"cdefghi", "a", "j"):
        kept.put(task_id, payload(), read=False)
    with pytest.raises(ResultEvicted):
        kept.get("a")


def test_what_the_broker_sends_again() -> None:
    kept = Buffer(10)
    kept.connection = 1
    steps = [Payload(b"%d" % number, None, None, False, connection=1) for number in range(4)]
    again = [step._replace(connection=0) for step in steps]
    assert all(kept.put("a", step, read=True) for step in steps[:3])
    assert not any(kept.put("a", step, read=True) for step in again[:3])
    assert kept.get("a") == steps[2]
    assert kept.put("b", again[0], read=True)  # the first time, for all that is known
    kept.connection = 2
    assert kept.put("a", again[3], read=True)
    assert kept.put("a", steps[3], read=True)  # the task says so twice
    assert len(kept._recent) == 5


def test_what_comes_again_is_older_than_what_is_new() -> None:
    """As the broker may notice late that an earlier connection is lost."""
    kept = Buffer(10)
    kept.connection = 2
    assert kept.put("a", Payload(b"3", None, None, False, connection=2), read=True)
    assert not kept.put("a", Payload(b"1", None, None, False), read=True)
    assert kept.put("b", Payload(b"0", None, None, False, connection=2), read=True)
    kept.connection = 3
    assert kept.put("b", Payload(b"1", None, None, False), read=True)
    assert kept.put("b", Payload(b"2", None, None, False), read=True)
    assert kept.put("a", Payload(b"end", None, None, True), read=True)


def test_a_look_at_what_is_just_taken_leaves_nothing() -> None:
    kept = Buffer(10)
    kept.put("a", payload(), read=False)

    class Unread(dict[str, Any]):
        """From which the loop takes what somebody has just seen."""

        def get(self, task_id: str, default: Any = None) -> Any:
            found = super().get(task_id, default)
            self.clear()
            return found

    kept._unread = Unread(kept._unread)  # type: ignore[assignment]
    kept.note_asked("a")
    assert not kept._asked
