"""Forks in the middle of what arrives: the child is silent, and the parent loses nothing.

The copy of the drain loop in the child would read from its parent's sockets, unless it looks.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, uuid

from celery_green_drain import forks

from .children import has_ended
from .conftest import Line
from .green import GREEN, MODE, block, spawn, spawn_get, wait_until
from .rabbitmq import RabbitServer
from .servers import RedisServer

pytestmark = pytest.mark.skipif(not GREEN, reason="a native thread is not copied into a child")

#: Ways to fork. The second one is that of uWSGI: no hook of Python's runs in the child.
FORKS: dict[str, Callable[[], int]] = {"python": os.fork, "C": ctypes.CDLL(None).fork}

if MODE == "gevent":
    import gevent

    # Its own os.fork() does more for the child's hub. A child in C has the parent's, as it is.
    from gevent.os import fork_and_watch

    FORKS["gevent"] = fork_and_watch


def fork(how: str, seconds: float = 0.2) -> None:
    """Fork a child that lets all its greenlets run, and be busy until it has."""
    pid = FORKS[how]()
    if pid == 0:
        try:
            time.sleep(seconds)
        finally:
            os._exit(0)
    block(1.5 * seconds)
    wait_until(lambda: has_ended(pid), "the end of the child")


class Publisher:
    """Publishes results without letting others run meanwhile."""

    def __init__(self, app: Celery, server: RedisServer) -> None:
        self._app = app
        self._connection = server.probe.connection_pool.make_connection()
        self._connection.connect()

    def publish(self, values: dict[str, Any]) -> None:
        commands = []
        for task_id, value in values.items():
            meta = {"status": "SUCCESS", "result": value, "task_id": task_id, "children": []}
            body = self._app.backend.encode(meta)
            commands.append(("PUBLISH", self._app.backend.get_key_for_task(task_id), body))
        for piece in self._connection.pack_commands(commands):
            os.write(self._connection._sock.fileno(), piece)

    def close(self) -> None:
        self._connection.disconnect()


@pytest.mark.parametrize("how", FORKS)
def test_while_messages_arrive(how: str, app: Celery, results: RedisServer) -> None:
    publisher = Publisher(app, results)
    for _ in range(3):
        values = {uuid(): i for i in range(40)}
        waits = {task_id: spawn_get(app.AsyncResult(task_id)) for task_id in values}
        wait_until(lambda: results.subscriptions() == 40, "the subscriptions")
        publisher.publish(values)
        block(0.05)  # they are there now, and nobody has read them
        fork(how)
        wait_until(lambda: all(waits.values()), "all waits")  # noqa: B023
        assert {task_id: outcome[0] for task_id, outcome in waits.items()} == values
        wait_until(lambda: not results.subscriptions(), "the end of the subscriptions")
    publisher.close()
    assert app.backend.result_consumer.statistics().connects == 1


@pytest.mark.skipif(MODE != "gevent", reason="eventlet's hub cannot be forked in the middle")
@pytest.mark.parametrize("steps", range(3))
def test_while_the_loop_connects(steps: int, line: Line) -> None:
    """There it waits inside of another library, which does not look."""
    from gevent.socket import wait_read

    receiver, sender = socket.socketpair()
    app, store = line.connect()
    consumer = app.backend.result_consumer
    consumer.start()
    for _ in range(steps):
        time.sleep(0)
    block(0.02)  # the next answer is there now
    sender.send(b"0")
    wait_read(receiver.fileno())  # so both are in one turn of the hub, and either comes first
    fork("python", seconds=0.05)
    assert app.AsyncResult(store(steps)).get(timeout=20) == steps
    assert (consumer.statistics().connects, consumer.statistics().outages) == (1, 0)
    receiver.close()
    sender.close()


@pytest.mark.parametrize("how", FORKS)
def test_as_the_loop_has_connected(
    how: str, app: Celery, store: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy goes on there, and what it has opened is its parent's."""
    consumer = app.backend.result_consumer
    opened, pids = consumer.open_session, list[int]()

    def open_and_fork() -> Any:
        session = opened()
        pids.append(FORKS[how]())
        if not pids[0]:
            spawn(lambda: (time.sleep(0.2), os._exit(consumer.session is not None)))
        return session

    monkeypatch.setattr(consumer, "open_session", open_and_fork)
    assert app.AsyncResult(store(1)).get(timeout=20) == 1
    wait_until(lambda: has_ended(pids[0]), "the end of the child, and a good one")
    assert consumer.statistics().outages == 0


def test_one_that_cannot_begin_anew_keeps_no_other(caplog: pytest.LogCaptureFixture) -> None:
    class Member:
        def __init__(self, breaks: bool) -> None:
            self.breaks = breaks

        def after_fork_in_child(self) -> None:
            if self.breaks:
                raise ValueError("somebody's own")
            told.append(self)

    told: list[Member] = []
    members = [Member(breaks=i % 2 == 0) for i in range(10)]
    for member in members:
        forks.register(member)
    pid = os.fork()
    if pid == 0:
        os._exit(len(told) != 5)
    wait_until(lambda: has_ended(pid), "the end of the child, and a good one")


@pytest.mark.skipif(MODE != "gevent", reason="eventlet's hub cannot be forked in the middle")
def test_while_the_loop_says_farewell(make: Callable[..., Celery], rabbit: RabbitServer) -> None:
    """With somebody who waits already for what comes after it."""
    app = make(broker=rabbit.url(), results="rpc://")
    consumer, farewell = app.backend.result_consumer, threading.Event()
    consumer.start()
    session = wait_until(lambda: consumer.session, "the connection")
    leave, drainer = session.leave, consumer.drainer

    def leave_slowly(delete: bool) -> None:
        farewell.set()
        time.sleep(0.2)
        leave(delete)

    session.leave = leave_slowly
    spawn(consumer.stop)
    assert farewell.wait(20)
    app.AsyncResult(uuid()).then(print)
    pid = os.fork()
    if pid == 0:
        os._exit(drainer.running)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("how", FORKS)
def test_while_stored_results_are_looked_up(
    how: str, app: Celery, store: Callable[..., str]
) -> None:
    values = {store(i): i for i in range(40)}
    assert app.AsyncResult(store(1)).get(timeout=20) == 1
    for _ in range(3):
        waits = {task_id: spawn_get(app.AsyncResult(task_id)) for task_id in values}
        time.sleep(0)  # the waits begin, and the loop asks
        time.sleep(0)
        block(0.05)  # the answer is there
        fork(how)
        wait_until(lambda: all(waits.values()), "all waits")  # noqa: B023
        assert {task_id: outcome[0] for task_id, outcome in waits.items()} == values
    assert app.backend.result_consumer.statistics().connects == 1


@pytest.mark.parametrize("how", FORKS)
def test_the_child_waits_for_its_own(
    how: str, app: Celery, store: Callable[..., str], results: RedisServer
) -> None:
    task_id = store(1)
    assert app.AsyncResult(task_id).get(timeout=20) == 1
    pending = app.AsyncResult(uuid())
    calls: list[object] = []
    pending.then(lambda result: calls.append(result.get()))
    receiver, sender = os.pipe()
    pid = FORKS[how]()
    if pid == 0:
        verdict = b"wrong"
        try:
            if (MODE, how) == ("gevent", "C"):
                gevent.reinit()  # who forks so has to tell gevent, and uWSGI does
            if app.AsyncResult(task_id).get(timeout=20) == 1:
                verdict = b"right"
        finally:
            os.write(sender, verdict)
            os._exit(0)
    os.close(sender)
    store(2, task_id=pending.id)
    wait_until(lambda: calls == [2], "the parent's own")
    assert os.read(receiver, 100) == b"right"
    os.close(receiver)
    wait_until(lambda: has_ended(pid), "the end of the child")


@pytest.mark.kinds("rpc, rabbitmq")
@pytest.mark.parametrize("how", FORKS)
def test_while_replies_arrive(how: str, app: Celery, rabbit_worker: object) -> None:
    """A child that acknowledged on its parent's connection would end that."""
    calls: list[int] = []
    pending = []
    for i in range(200):
        result = app.tasks["add"].delay(i, 0)
        result.then(lambda result: calls.append(result.get()))
        pending.append(result)
        if i % 70 == 35:
            block(0.05)
            fork(how)
    wait_until(lambda: len(calls) == 200, "all callbacks", timeout=60)
    assert sorted(calls) == list(range(200))
    assert app.backend.result_consumer.statistics().connects == 1
