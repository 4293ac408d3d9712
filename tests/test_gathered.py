"""Reads of single states that gather while one is under way: who reads what, and who waits."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from celery_green_drain.consumers import gathered
from celery_green_drain.consumers.gathered import GatheredReads

from .green import GREEN, crowd, kill, spawn, wait_until


class Reads:
    """Some reads at once. The first is held up until all others have gathered."""

    def __init__(self, limit: int = 100) -> None:
        self.reads = GatheredReads(limit)
        self.alone: list[str] = []
        self.together: list[list[str]] = []
        self.outcomes: dict[str, Any] = {}
        self.held_up = threading.Event()
        self.first = spawn(self.read, "first")
        wait_until(lambda: self.alone == ["first"], "the first read")

    def read(self, task_id: str) -> None:
        try:
            meta = self.reads.read(task_id, lambda: self.read_alone(task_id), self.read_all)
            self.outcomes[task_id] = meta["result"]
        except Exception as exc:
            self.outcomes[task_id] = exc

    def read_alone(self, task_id: str) -> dict[str, Any]:
        self.alone.append(task_id)
        if task_id == "first":
            self.held_up.wait(30)
        return {"status": "SUCCESS", "result": f"{task_id}, alone"}

    def read_all(self, task_ids: list[str]) -> list[Any]:
        self.together.append(task_ids)
        return [{"status": "SUCCESS", "result": f"{task_id}, together"} for task_id in task_ids]

    def gather(self, *task_ids: str) -> list[Any]:
        spawned = [spawn(self.read, task_id) for task_id in task_ids]
        wait_until(lambda: len(self.reads._turn.waiting) == len(task_ids), "those who gather")
        return spawned

    def end(self) -> None:
        self.held_up.set()
        self.wait_for("first")

    def wait_for(self, *task_ids: str) -> None:
        wait_until(lambda: set(task_ids) <= set(self.outcomes), f"{task_ids}")


def test_who_comes_while_one_is_under_way_goes_together() -> None:
    reads = Reads()
    reads.gather("a", "b", "c")
    reads.end()
    reads.wait_for("a", "b", "c")
    assert reads.alone == ["first"]
    assert [sorted(each) for each in reads.together] == [["a", "b", "c"]]
    assert reads.outcomes == {
        "first": "first, alone",
        **{task_id: f"{task_id}, together" for task_id in "abc"},
    }


def test_no_more_than_the_store_takes() -> None:
    reads = Reads(limit=2)
    reads.gather("a", "b", "c", "d", "e")
    reads.end()
    reads.wait_for(*"abcde")
    assert sorted(map(len, reads.together)) == [2, 2]
    assert len(reads.alone) == 2  # the first, and the last one


def test_where_each_goes_by_itself_nobody_waits() -> None:
    reads = Reads(limit=1)
    crowd(3, lambda i: reads.read(str(i)))
    assert sorted(reads.outcomes.values()) == ["0, alone", "1, alone", "2, alone"]
    reads.end()


def test_a_read_that_hangs_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "PATIENCE", 0.1)
    reads = Reads()
    reads.gather("a", "b")
    reads.wait_for("a", "b")
    assert sorted(reads.alone) == ["a", "b", "first"]
    reads.end()
    reads.gather()
    reads.read("later")  # of those who have gone, none is read for
    assert (reads.outcomes["later"], reads.together) == ("later, alone", [])


@pytest.mark.skipif(not GREEN, reason="native threads cannot be killed")
def test_who_is_killed_holds_up_nobody() -> None:
    reads = Reads()
    _, b, _ = reads.gather("a", "b", "c")
    kill(b)
    kill(reads.first)
    reads.wait_for("a", "c")
    assert reads.outcomes == {"a": "a, together", "c": "c, together"}


def test_a_refusal_is_found_out_by_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads()
    reads.read_all = lambda task_ids: 1 / 0  # type: ignore[assignment,method-assign,return-value]
    reads.gather("a", "b")
    reads.end()
    reads.wait_for("a", "b")
    assert sorted(reads.alone) == ["a", "b", "first"]
    assert reads.reads._paused > 0  # and for a while nobody tries that again


def test_what_cannot_be_read_with_others_is_read_alone() -> None:
    reads = Reads()
    reads.read_all = lambda task_ids: [None] * len(task_ids)  # type: ignore[method-assign]
    reads.gather("a", "b")
    reads.end()
    reads.wait_for("a", "b")
    assert sorted(reads.alone) == ["a", "b", "first"]
