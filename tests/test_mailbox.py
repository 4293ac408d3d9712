"""The way into a drain loop: notes, in order, from everywhere, and what the loop sleeps on."""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from select import select
from typing import Any

import pytest

from celery_green_drain import drainers
from celery_green_drain.drainers import mailbox as module
from celery_green_drain.drainers.mailbox import Abandoned, Mailbox

from .green import DRAINER, GREEN, block, spawn, wait_until


class Consumer:
    """A foreign consumer that is never drained."""

    def drain_events(self, timeout: float | None = None) -> None: ...


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    drainer: Any = drainers.ours(DRAINER)(Consumer())
    yield drainer.mailbox
    drainer.mailbox.close()


def test_notes_are_read_in_order(mailbox: Mailbox) -> None:
    read: list[int] = []
    for number in range(5):
        mailbox.post(read.append, number)
    assert len(mailbox) == 5
    mailbox.read()
    assert read == [0, 1, 2, 3, 4]
    assert len(mailbox) == 0


def test_a_turn_reads_what_was_there_at_its_beginning(mailbox: Mailbox) -> None:
    turns: list[int] = []

    def again(number: int) -> None:
        turns.append(number)
        mailbox.post(again, number + 1)

    mailbox.post(again, 0)
    for turn in range(3):
        mailbox.read()
        assert turns == list(range(turn + 1))


def test_a_turn_is_bounded(mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 10)
    read: list[int] = []
    for number in range(25):
        mailbox.post(read.append, number)
    for expected in (10, 20, 25):
        assert mailbox.wait(60) == []  # as there are notes
        mailbox.read()
        assert len(read) == expected


def test_a_note_that_raises_keeps_no_other(
    mailbox: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    read: list[int] = []
    mailbox.post(int, "no number")
    mailbox.post(read.append, 1)
    with caplog.at_level(logging.ERROR):
        mailbox.read()
    assert read == [1]
    assert "no number" in caplog.text


def test_a_note_ends_the_sleep(mailbox: Mailbox) -> None:
    woken: list[object] = []

    def sleep() -> None:
        mailbox.wait(60)
        woken.append(1)

    spawn(sleep)
    time.sleep(0.05)
    for _ in range(3):
        mailbox.post(woken.append, 2)
    wait_until(lambda: woken, "the end of the sleep")
    mailbox.read()
    assert woken == [1, 2, 2, 2]


def test_what_a_signal_handler_raises_in_the_middle_of_a_post(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later posts end the sleep all the same."""

    class Interrupted:
        def send(self, data: bytes) -> None:
            raise KeyboardInterrupt

    woken = threading.Event()

    def sleep() -> None:
        mailbox.wait(60)
        woken.set()

    spawn(sleep)
    wait_until(lambda: mailbox._asleep, "the sleep")
    with monkeypatch.context() as patch:
        patch.setattr(mailbox, "_sender", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            mailbox.wake()
    mailbox.wake()
    assert woken.wait(20)


def test_a_loop_that_does_not_sleep_is_sent_nothing(mailbox: Mailbox) -> None:
    """A hub of gevent would find the byte at each of its turns, until the loop reads it."""
    mailbox.wait(0)
    mailbox.wake()
    mailbox.post(len, ())
    assert not select([mailbox._receiver], [], [], 0)[0]
    begun = time.monotonic()
    mailbox.wait(60)
    mailbox.read()
    mailbox.wake()
    mailbox.wait(60)  # without a note as well
    assert time.monotonic() - begun < 30


def test_a_source_ends_the_sleep(mailbox: Mailbox) -> None:
    ours, theirs = socket.socketpair()
    mailbox.register(ours)
    assert mailbox.wait(0.01) == []
    theirs.send(b"x")
    assert wait_until(lambda: mailbox.wait(1), "the source") == [ours]
    mailbox.unregister(ours)
    mailbox.unregister(ours)
    assert mailbox.wait(0.01) == []
    ours.close()
    theirs.close()


def test_what_is_for_later(mailbox: Mailbox) -> None:
    read: list[int] = []
    begun = time.monotonic()
    mailbox.later(0.1, read.append, 2)
    mailbox.later(0.05, read.append, 1)
    mailbox.read()
    assert read == []
    while len(read) < 2:
        mailbox.wait(60)
        mailbox.read()
    assert read == [1, 2]
    assert time.monotonic() - begun < 30


def test_finalisers_post_in_the_middle_of_anything(mailbox: Mailbox) -> None:
    read: list[int] = []

    class Thing:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            mailbox.post(read.append, 1)

    def collect() -> None:
        Thing()
        gc.collect()

    for _ in range(10):
        mailbox.post(collect)
    mailbox.read()
    assert not read
    mailbox.read()
    assert read == [1] * 10


def test_whether_somebody_asks(mailbox: Mailbox) -> None:
    mailbox.note(print, ())
    assert not mailbox.asked
    mailbox.note(list, (), asks=True)
    assert mailbox.asked
    mailbox.note(list, ())
    while len(mailbox):
        mailbox.read()
    assert not mailbox.asked


def test_closed_it_keeps_its_notes(mailbox: Mailbox) -> None:
    read: list[int] = []
    mailbox.wait(0)
    mailbox.close()
    mailbox.post(read.append, 1)
    mailbox.close()
    assert mailbox.wait(60) == []
    mailbox.read()
    assert read == [1]


def test_the_loop_is_not_to_wait_for_itself(mailbox: Mailbox) -> None:
    inside: list[bool] = []
    mailbox.post(lambda: inside.append(mailbox.is_read_here()))
    assert not mailbox.is_read_here()
    mailbox.read()
    assert inside == [True]


def test_in_a_child_nobody_touches_it(mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    mailbox.wait(0)
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    mailbox.post(print)  # wakes nobody, as that would be the parent
    for use in (lambda: mailbox.wait(0), mailbox.look):
        with pytest.raises(Abandoned):
            use()
    monkeypatch.undo()
    mailbox.look()
    mailbox.abandon()
    with pytest.raises(Abandoned):
        mailbox.look()
    mailbox._abandoned = False  # closed in the end


@pytest.mark.skipif(not GREEN, reason="native threads run beside each other")
@pytest.mark.parametrize("how", [(0,), (0.001, True)], ids=["more", "busy"])
def test_who_works_and_yields_keeps_nobody_from_the_sockets(
    mailbox: Mailbox, how: tuple[Any, ...]
) -> None:
    worked, over = [0], [False]

    def work() -> None:
        while not over[0]:
            block(0.006)  # longer than a hub may be at its callbacks
            worked[0] += 1
            time.sleep(0)

    spawn(work)
    mailbox.wait(*how)
    worked[0] = 0
    for _ in range(10):
        mailbox.wait(*how)
    over[0] = True
    time.sleep(0)
    assert worked[0] < 50  # not 50 for each turn
