"""Servers that go away, fall silent or say no, and networks that do."""

from __future__ import annotations

import logging
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from celery import Celery, uuid

from celery_green_drain.consumers.redis import link as redis_link
from celery_green_drain.drainers.outage import Backoff

from .conftest import Line, storing
from .green import spawn, spawn_get, wait_until
from .proxy import proxied
from .rabbitmq import RabbitServer
from .servers import RedisServer, Worker


class Asked:
    """Results that are waited for, each by ``get()`` and by a callback."""

    def __init__(self, app: Celery, count: int = 5) -> None:
        self.ids = [uuid() for _ in range(count)]
        self.got: dict[str, list[Any]] = {task_id: [] for task_id in self.ids}
        for task_id in self.ids:
            app.AsyncResult(task_id).then(self._called)
            spawn(self._get, app.AsyncResult(task_id))

    def _called(self, result: Any) -> None:
        self.got[result.id].append(result.get(timeout=0))

    def _get(self, result: Any) -> None:
        try:
            self.got[result.id].append(result.get(timeout=60))
        except Exception as exc:
            self.got[result.id].append(exc)

    def outcomes(self) -> list[Any]:
        """What has come so far, of each result twice in the end."""
        return [outcome for outcomes in self.got.values() for outcome in outcomes]

    def serve(self, store: Callable[..., str]) -> None:
        for task_id in self.ids:
            store(task_id, task_id=task_id)

    def check(self) -> None:
        expected = {task_id: [task_id] * 2 for task_id in self.ids}
        wait_until(lambda: self.got == expected, "each result, once by get() and once by then()")


def lost(caplog: pytest.LogCaptureFixture) -> int:
    return sum(message.startswith("Lost the connection") for message in caplog.messages)


def back(caplog: pytest.LogCaptureFixture) -> int:
    return sum("is back after" in message for message in caplog.messages)


def statistics(app: Celery) -> Any:
    return app.backend.result_consumer.statistics()


# -- on both


def test_outages_in_a_row(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    """Each is logged once; who waits before, during and after it is served."""
    app, store = line.connect(result_drainer_retry_max=0.2)
    for number in range(1, 4):
        asked = [Asked(app)]
        wait_until(lambda: statistics(app).pending == 5, "the waits")
        line.proxy.refuse()
        wait_until(lambda: lost(caplog) == number, "the loss to be noticed")  # noqa: B023
        asked.append(Asked(app))
        asked[0].serve(store)
        line.proxy.pass_on()
        asked[1].serve(store)
        wait_until(lambda: back(caplog) == number, "the log line")  # noqa: B023
        asked.append(Asked(app))
        asked[2].serve(store)
        for each in asked:
            each.check()
    assert (lost(caplog), back(caplog)) == (3, 3)
    assert not any(record.exc_info for record in caplog.records)
    assert statistics(app).pending == 0


def test_an_outage_without_end(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    """There is no limit to the attempts, and no line in the log for each."""
    app, store = line.connect(result_drainer_retry_max=0.02)
    line.proxy.refuse()
    asked = Asked(app)
    asked.serve(store)
    wait_until(
        lambda: app.backend.result_consumer.drainer.outage.failures > 100, "a hundred attempts"
    )
    assert len(caplog.messages) == lost(caplog) == 1
    line.proxy.pass_on()
    asked.check()
    wait_until(lambda: back(caplog), "the log line")
    assert int(re.search(r"\((\d+) attempts\)", caplog.text)[1]) > 100


def test_a_network_that_swallows(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody closes, nobody answers: noticed within two heartbeats."""
    app, store = line.connect(result_drainer_heartbeat=1, result_drainer_retry_max=0.5)
    asked = Asked(app)
    wait_until(lambda: statistics(app).pending == 5, "the waits")
    wait_until(lambda: statistics(app).connections, "the connection")
    line.proxy.swallow()
    cut = time.monotonic()
    asked.serve(store)
    wait_until(lambda: lost(caplog), "the notice")
    assert time.monotonic() - cut < 2 + 1
    assert not asked.outcomes()
    line.proxy.pass_on()
    asked.check()


def test_a_network_that_swallows_a_new_connection(line: Line) -> None:
    """The server's port is open, and nothing more."""
    line.proxy.swallow()
    app, store = line.connect(result_drainer_heartbeat=1, result_drainer_retry_max=0.5)
    asked = Asked(app)
    asked.serve(store)
    wait_until(lambda: statistics(app).drainer, "the drainer")
    time.sleep(0.5)  # into the attempt
    line.proxy.pass_on()
    asked.check()


def test_all_that_comes_comes_byte_by_byte(line: Line) -> None:
    app, store = line.connect()
    line.proxy.trickle()
    asked = Asked(app, 2)
    wait_until(lambda: statistics(app).pending == 2, "the waits")
    asked.serve(store)
    asked.check()
    assert statistics(app).connects <= 2  # that before the trickle, where there was one


@pytest.mark.parametrize("server", ["results", "rabbit"])
def test_a_server_that_is_paused(
    server: str,
    make: Callable[..., Celery],
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It neither answers nor closes: noticed within two heartbeats."""
    paused = request.getfixturevalue(server)
    conf = {} if server == "results" else {"broker": paused.url(), "results": "rpc://"}
    app = make(**conf, result_drainer_heartbeat=1, result_drainer_retry_max=0.5)
    store = storing(app)
    assert app.AsyncResult(store(1)).get(timeout=20) == 1
    asked = Asked(app)
    wait_until(lambda: statistics(app).pending == 5, "the waits")
    begun = time.monotonic()
    paused.process.send(signal.SIGSTOP)
    try:
        wait_until(lambda: lost(caplog), "the silence to be noticed")
        assert time.monotonic() - begun < 2 + 1
    finally:
        paused.process.send(signal.SIGCONT)
    asked.serve(store)
    asked.check()


# -- Redis says no


@pytest.fixture
def stored(make: Callable[..., Celery], own: RedisServer) -> tuple[Celery, Callable[..., str]]:
    """An app with a result store of its own, over a connection that is open."""
    app = make(
        results=own.url("web"),
        result_backend_always_retry=True,  # for storing, which is the worker's part
        result_backend_max_retries=11,  # not for ever, as this process has other tests to run
        result_drainer_heartbeat=0.5,
        result_drainer_retry_max=0.2,
    )
    store = storing(app)
    assert app.AsyncResult(store(1)).get(timeout=20) == 1
    return app, store


def test_killed_and_restarted_again_and_again(
    stored: tuple[Celery, Callable[..., str]], own: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    app, store = stored
    for number in range(1, 4):
        before = Asked(app)
        wait_until(own.subscriptions, "the subscriptions")
        own.kill()
        wait_until(lambda: lost(caplog) == number, "the loss to be noticed")  # noqa: B023
        during = Asked(app)
        own.start()
        before.serve(store)
        during.serve(store)
        before.check()
        during.check()
        wait_until(lambda: back(caplog) == number, "the log line")  # noqa: B023
    assert (lost(caplog), back(caplog)) == (3, 3)


def test_loading(
    stored: tuple[Celery, Callable[..., str]], own: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """After a restart it takes connections, and refuses commands until all is loaded."""
    app, store = stored
    with own.probe.pipeline() as pipe:
        for i in range(150):
            pipe.set(f"other {i}", "x")
        pipe.execute()
    asked = Asked(app)
    asked_of_the_file = store("from the file")
    own.probe.execute_command("BGREWRITEAOF")
    wait_until(lambda: not own.probe.info()["aof_rewrite_in_progress"], "the file")
    own.kill()
    own.options = (*own.options, "--key-load-delay", "10000")  # microseconds a key
    spawn(own.start)
    raw = redis.Redis(port=own.port, client_name="probe")

    def loading() -> bool:
        try:
            return not raw.get("x")
        except redis.exceptions.BusyLoadingError:
            return True
        except redis.ConnectionError:
            return False

    wait_until(loading, "the server to load")
    late = app.AsyncResult(asked_of_the_file)
    assert late.get(timeout=30) == "from the file"
    asked.serve(store)
    asked.check()
    wait_until(lambda: back(caplog), "the log line")
    assert (lost(caplog), back(caplog)) == (1, 1)
    raw.close()


def test_out_of_memory(
    stored: tuple[Celery, Callable[..., str]], own: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Who stores is told; who waits is served when there is room again."""
    app, store = stored
    own.probe.config_set("maxmemory", 1)
    asked = Asked(app)
    wait_until(lambda: own.subscriptions() == 5, "the subscriptions")
    with pytest.raises(redis.ResponseError, match=r"OOM|maxmemory"):
        store()
    own.probe.config_set("maxmemory", 0)
    asked.serve(store)
    asked.check()
    assert (statistics(app).connects, lost(caplog)) == (1, 0)


def test_no_more_clients(
    stored: tuple[Celery, Callable[..., str]], own: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    app, store = stored
    asked = Asked(app)
    wait_until(lambda: own.subscriptions() == 5, "the subscriptions")
    own.probe.config_set("maxclients", 1)
    own.probe.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    wait_until(lambda: lost(caplog), "the loss to be noticed")
    wait_until(lambda: app.backend.result_consumer.drainer.outage.failures > 3, "some attempts")
    own.probe.config_set("maxclients", 1000)
    asked.serve(store)
    asked.check()


def test_client_kill_of_each_connection(
    stored: tuple[Celery, Callable[..., str]], own: RedisServer
) -> None:
    """That of the messages, and that of the look-ups where there is one."""
    app, store = stored
    for kind in ("pubsub", "normal"):
        asked = Asked(app)
        wait_until(lambda: own.subscriptions() == 5, "the subscriptions")
        if kind == "normal" and statistics(app).connections == 1:
            break
        connects = statistics(app).connects
        own.probe.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        wait_until(lambda: statistics(app).connects == connects + 1, "the next one")  # noqa: B023
        asked.serve(store)
        asked.check()


def test_client_pause(
    stored: tuple[Celery, Callable[..., str]], own: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """For longer than two heartbeats: it looks dead, and then it is not."""
    app, store = stored
    asked = Asked(app)
    wait_until(lambda: own.subscriptions() == 5, "the subscriptions")
    own.probe.execute_command("CLIENT", "PAUSE", 2000, "ALL")
    wait_until(lambda: lost(caplog), "the silence to be noticed")
    asked.serve(store)
    asked.check()
    wait_until(lambda: back(caplog), "the log line")
    assert (lost(caplog), back(caplog)) == (1, 1)


def test_a_master_that_becomes_a_replica(
    stored: tuple[Celery, Callable[..., str]], own: RedisServer, results: RedisServer
) -> None:
    """It refuses to store, and passes on what is stored and published where it was not before."""
    app, store = stored
    asked = Asked(app)
    wait_until(lambda: own.subscriptions() == 5, "the subscriptions")
    master = RedisServer("--repl-diskless-sync-delay", "0")
    own.probe.execute_command("REPLICAOF", "127.0.0.1", master.port)
    wait_until(lambda: own.probe.info()["master_link_status"] == "up", "the replica", timeout=60)
    with pytest.raises(redis.exceptions.ReadOnlyError):
        store()
    client = redis.Redis(port=master.port)
    for task_id in asked.ids:
        key = app.backend.get_key_for_task(task_id)
        meta = app.backend.encode({"status": "SUCCESS", "result": task_id, "task_id": task_id})
        client.set(key, meta)
        client.publish(key, meta)
    asked.check()
    client.close()
    master.end()


def test_a_password_that_changes_in_an_outage(
    stored: tuple[Celery, Callable[..., str]], own: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Who waits is told, also who begins to wait long afterwards. The right one mends it, and the
    callbacks are still there.
    """
    app, store = stored
    asked = Asked(app)
    wait_until(lambda: own.subscriptions() == 5, "the subscriptions")
    own.kill()
    wait_until(lambda: lost(caplog), "the loss to be noticed")
    own.login = ">secret"
    own.start()
    told = redis.exceptions.AuthenticationError
    wait_until(lambda: any(isinstance(x, told) for x in asked.outcomes()), "the error")
    assert not [x for x in asked.outcomes() if not isinstance(x, told)]
    app.backend.result_consumer.drainer.backoff = Backoff(first=60, longest=60)
    for _ in range(3):
        with pytest.raises(told):
            app.AsyncResult(uuid()).get(timeout=5)
    assert sum("refuses" in message for message in caplog.messages) == 1
    own.probe.execute_command("ACL", "SETUSER", "default", "nopass")
    assert app.AsyncResult(store(2)).get(timeout=20) == 2
    asked.serve(store)
    called = [[task_id] for task_id in asked.ids]
    wait_until(lambda: [got[1:] for got in asked.got.values()] == called, "the callbacks")


def test_a_password_that_changes_here_a_moment_later(
    stored: tuple[Celery, Callable[..., str]], own: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """As where it is rotated: nobody hears of it."""
    app, store = stored
    asked = Asked(app)
    wait_until(lambda: own.subscriptions() == 5, "the subscriptions")
    own.probe.execute_command("ACL", "SETUSER", "default", "resetpass", ">secret")
    own.probe.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    wait_until(lambda: "refuses" in caplog.text, "the refusal")
    own.probe.execute_command("ACL", "SETUSER", "default", "nopass")
    asked.serve(store)
    asked.check()


@pytest.mark.parametrize("query", ["", "&protocol=2"])
def test_a_password_that_is_asked_for_all_at_once(
    make: Callable[..., Celery], own: RedisServer, query: str
) -> None:
    app = make(results=own.url("web") + query)
    outcome = spawn_get(app.AsyncResult(uuid()))
    wait_until(own.subscriptions, "the subscription")
    own.probe.config_set("requirepass", "secret")
    own.probe.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    own.probe.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    wait_until(lambda: outcome, "the error", timeout=40)
    assert isinstance(outcome[0], redis.exceptions.AuthenticationError)


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_refused_password_says_nothing_against_resp3(
    attempts: int, make: Callable[..., Celery], own: RedisServer
) -> None:
    app = make(results=own.url("web"))
    own.probe.execute_command("ACL", "SETUSER", "default", "resetpass", ">secret")
    consumer = app.backend.result_consumer
    consumer.start()
    wait_until(lambda: consumer.drainer.outage.failures == attempts, "the refusal")
    own.probe.execute_command("ACL", "SETUSER", "default", "nopass")
    wait_until(lambda: consumer.connections, "the connection")
    assert consumer.connections == (1 if redis_link.RESP3 else 2)


def test_a_connection_that_has_held_is_opened_anew_at_once(
    stored: tuple[Celery, Callable[..., str]], own: RedisServer
) -> None:
    """Pauses are for a server that cannot be reached."""
    app, store = stored
    app.backend.result_consumer.drainer.backoff = Backoff(first=60, longest=60)
    asked = Asked(app)
    wait_until(lambda: own.subscriptions() == 5, "the subscriptions")
    own.probe.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    asked.serve(store)
    asked.check()


def test_who_begins_to_wait_when_it_is_back(
    stored: tuple[Celery, Callable[..., str]], own: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for no pause that is meant for a server which is away."""
    app, store = stored
    app.backend.result_consumer.drainer.backoff = Backoff(first=60, longest=60)
    asked = Asked(app)
    wait_until(lambda: own.subscriptions() == 5, "the subscriptions")
    own.kill()
    wait_until(lambda: app.backend.result_consumer.drainer.outage.failures > 1, "a failed attempt")
    own.start()
    asked.serve(store)
    assert app.AsyncResult(store(1)).get(timeout=20) == 1
    asked.check()


#: Keeps Redis from answering anybody for so many seconds.
SCRIPT = """
local until_then = tonumber(redis.call('TIME')[1]) + tonumber(ARGV[1])
while tonumber(redis.call('TIME')[1]) < until_then do end
"""


def test_a_busy_server_is_asked_again_soon(
    stored: tuple[Celery, Callable[..., str]], own: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a script runs for long."""
    app, store = stored
    asked = Asked(app)
    wait_until(lambda: own.subscriptions() == 5, "the subscriptions")
    app.backend.result_consumer.drainer.backoff = Backoff(first=60, longest=60)
    own.probe.config_set("lua-time-limit", 10)
    over: list[Any] = []
    spawn(lambda: over.append(own.probe.eval(SCRIPT, 0, 3)))
    fresh = app.AsyncResult(uuid())
    fresh.then(print)
    wait_until(lambda: lost(caplog), "the loss")
    wait_until(lambda: over, "the end of the script")
    asked.serve(store)
    assert app.AsyncResult(store(1)).get(timeout=20) == 1
    asked.check()


# -- RabbitMQ says no


def test_a_password_of_rabbitmq_that_changes_in_an_outage(
    make: Callable[..., Celery],
    rabbit: RabbitServer,
    rabbit_worker: Worker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rabbit.control("add_user", "web", "right")
    rabbit.control("set_permissions", "web", ".*", ".*", ".*")
    with proxied(rabbit.port) as proxy:
        url = rabbit.url(proxy.port).replace("guest:guest", "web:right")
        app = make(broker=rabbit.url(), drained_from=url, results="rpc://")
        assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
        asked = Asked(app)
        wait_until(lambda: statistics(app).pending == 5, "the waits")
        rabbit.control("change_password", "web", "wrong")
        proxy.reset()
        wait_until(lambda: len(asked.outcomes()) == 5, "the error")
        assert all("ACCESS_REFUSED" in str(error) for error in asked.outcomes())
        result = app.tasks["add"].delay(2, 3)
        for _ in range(3):
            with pytest.raises(Exception, match="ACCESS_REFUSED"):
                app.AsyncResult(uuid()).get(timeout=10)
        assert sum("refuses" in message for message in caplog.messages) == 1
        rabbit.control("change_password", "web", "right")
        wait_until(lambda: statistics(app).connects == 2, "the connection")
        assert result.get(timeout=20) == 5
        app.backend.result_consumer.stop()
    rabbit.control("delete_user", "web")


def test_lost_messages_of_many(make: Callable[..., Celery], results: RedisServer) -> None:
    """They are stored, and no message of them was ever sent."""
    app = make(result_drainer_reconcile_interval=0.5)
    asked = Asked(app, 50)
    wait_until(lambda: results.subscriptions() == 50, "the subscriptions")
    for task_id in asked.ids:
        meta = {"status": "SUCCESS", "result": task_id, "task_id": task_id}
        app.backend.client.set(app.backend.get_key_for_task(task_id), app.backend.encode(meta))
    asked.check()
    assert statistics(app).pending == 0


def test_the_level_of_what_is_logged(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    app, store = line.connect()
    assert app.AsyncResult(store()).get(timeout=20) == 42
    with caplog.at_level(logging.DEBUG, logger="celery_green_drain"):
        line.proxy.reset()
        wait_until(lambda: back(caplog), "the log line")
    told = [
        record for record in caplog.records if record.name.startswith("celery_green_drain.drainers")
    ]
    assert [record.levelname for record in told] == ["WARNING", "WARNING"]
