"""Redis as others have it: with fewer rights, in cluster mode, behind what speaks RESP2 only."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import celery
import pytest
import redis
from celery import Celery, uuid
from celery.exceptions import TimeoutError

from celery_green_drain.consumers.redis import session as redis_session

from .green import crowd, spawn_get, wait_until
from .proxy import proxied
from .servers import RedisServer

KEYS = "celery-task-meta-"

#: What stock Celery sends for results, and no more.
STOCK = [
    *("on", ">secret", f"~{KEYS}*", "resetchannels", f"&{KEYS}*", "-@all"),
    *("+auth", "+client", "+hello", "+select", "+get", "+set", "+setex", "+del", "+publish"),
    *("+subscribe", "+unsubscribe", "+multi", "+exec", "+expire"),
]

#: Lines in the log that tell of a refusal.
REFUSES = "Redis refuses"


@pytest.fixture(scope="module")
def guarded() -> Iterator[RedisServer]:
    """A Redis whose users have the rights that a test gives them."""
    server = RedisServer()
    yield server
    server.end()


@pytest.fixture
def login(guarded: RedisServer, make: Callable[..., Celery]) -> Callable[..., Celery]:
    """Make an app of a user with the given rights."""

    def log_in(*rights: str, **conf: Any) -> Celery:
        guarded.probe.execute_command("ACL", "SETUSER", "web", "reset", *rights)
        url = guarded.url("web", 1).replace("://", "://web:secret@")
        return make(results=url, result_drainer_heartbeat=0.5, **conf)

    return log_in


@pytest.fixture
def keep(guarded: RedisServer, make: Callable[..., Celery]) -> Callable[..., str]:
    """Store a result as a worker does."""
    worker = make(results=guarded.url("worker", 1))

    def store(value: Any = 1, state: str = "SUCCESS", task_id: str | None = None) -> str:
        task_id = task_id or uuid()
        worker.backend.store_result(task_id, value, state)
        return task_id

    return store


def serves(app: Celery, keep: Callable[..., str], server: RedisServer) -> None:
    """Results that were stored before, and those that come, for all who ask in whatever way."""
    stored = [keep(i) for i in range(20)]
    assert crowd(20, lambda i: app.AsyncResult(stored[i]).get(timeout=20)) == list(range(20))
    assert app.AsyncResult(stored[0]).state == "SUCCESS"
    comes(app, keep, server)


def comes(app: Celery, keep: Callable[..., str], server: RedisServer) -> None:
    calls: list[int] = []
    ids = [uuid() for _ in range(20)]
    for task_id in ids:
        app.AsyncResult(task_id).then(lambda result: calls.append(result.get()))
    wait_until(lambda: subscribed(server, ids), "the subscriptions")
    for i, task_id in enumerate(ids):
        keep(i, task_id=task_id)
    wait_until(lambda: sorted(calls) == list(range(20)), "all callbacks")


def subscribed(server: RedisServer, ids: list[str]) -> bool:
    return all(n for _, n in server.probe.pubsub_numsub(*(KEYS + task_id for task_id in ids)))


def test_the_rights_of_stock_celery(
    login: Callable[..., Celery],
    keep: Callable[..., str],
    guarded: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = login(*STOCK)
    serves(app, keep, guarded)
    # Through some heartbeats, without PING.
    guarded.reset_calls()
    wait_until(lambda: guarded.calls("unsubscribe") > 2, "signs of life")
    serves(app, keep, guarded)
    assert app.backend.result_consumer.statistics().connects == 1
    told = [text for text in caplog.messages if REFUSES in text]
    assert len(told) == len(set(told)) == 2
    assert {name for name in ("MGET", "PING") if any(name in text for text in told)} == {
        "MGET",
        "PING",
    }


@pytest.mark.parametrize("command", ["mget", "ping", "hello", "unsubscribe", "client"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_each_of_our_commands_refused(
    command: str,
    protocol: int,
    login: Callable[..., Celery],
    keep: Callable[..., str],
    guarded: RedisServer,
) -> None:
    app = login("on", ">secret", "~*", "&*", "+@all", f"-{command}")
    # As client names are set by CLIENT, which is the user's own wish.
    url = app.conf.result_backend
    if command == "client":
        url = url.partition("?")[0] + "?"
    app.conf.result_backend = f"{url}&protocol={protocol}"
    serves(app, keep, guarded)
    serves(app, keep, guarded)
    assert app.backend.result_consumer.statistics().connects == 1


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    ("rights", "sign"),
    [
        (("~*", "-unsubscribe"), "get"),
        (("~*", "-unsubscribe", "-get"), "mget"),
        # Nothing but what comes by itself shows that the server lives.
        ((f"~{KEYS}a*", "resetchannels", f"&{KEYS}a*", "-unsubscribe"), None),
    ],
)
def test_no_ping_for_some_heartbeats(
    rights: tuple[str, ...],
    sign: str | None,
    protocol: int,
    login: Callable[..., Celery],
    keep: Callable[..., str],
    guarded: RedisServer,
) -> None:
    """What asks instead costs nothing else its right."""
    app = login("on", ">secret", "&*", "+@all", "-ping", *rights)
    app.conf.result_backend += f"&protocol={protocol}"

    def serves() -> None:
        assert app.AsyncResult(keep(1, task_id=f"a{uuid()}")).get(timeout=20) == 1

    serves()
    guarded.reset_calls()
    consumer = app.backend.result_consumer
    turns = consumer.session.turn
    turned = 0

    def turn(timeout: float | None) -> None:
        nonlocal turned
        turned += 1
        turns(timeout)

    consumer.session.turn = turn
    if sign is None:
        time.sleep(2)  # four heartbeats
    else:
        wait_until(lambda: guarded.calls(sign) > 1, "signs of life")
    assert turned < 100
    serves()
    assert consumer.statistics().connects == 1


def test_no_look_at_what_is_stored(
    login: Callable[..., Celery], keep: Callable[..., str], guarded: RedisServer
) -> None:
    app = login("on", ">secret", "~*", "&*", "+@all", "-mget", "-get")
    comes(app, keep, guarded)
    comes(app, keep, guarded)
    with pytest.raises(redis.exceptions.NoPermissionError):  # as stock Celery has it
        app.AsyncResult(keep()).state  # noqa: B018


@pytest.mark.parametrize("anew", [False, True])
def test_rights_that_are_given_back(
    anew: bool, login: Callable[..., Celery], keep: Callable[..., str], guarded: RedisServer
) -> None:
    """After a while, or with the next connection."""
    rights = ("on", ">secret", "~*", "&*", "+@all", "-get", "-mget", "-subscribe")
    app = login(*rights, result_drainer_reconcile_interval=3600 if anew else 0.2)
    assert isinstance(error_of(app, keep()), redis.exceptions.ResponseError)
    guarded.probe.execute_command("ACL", "SETUSER", "web", "+@all")
    if anew:
        guarded.probe.execute_command("CLIENT", "KILL", "USER", "web")

    def is_served() -> bool:
        return error_of(app, keep(), timeout=1) is None

    wait_until(is_served, "a stored result")
    assert app.backend.result_consumer.statistics().connects == (2 if anew else 1)
    serves(app, keep, guarded)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("again", ["reconcile", "reconnect"])
@pytest.mark.parametrize("rights", [[], ["-mget"]])
def test_a_look_that_fails_is_repeated(
    protocol: int,
    again: str,
    rights: list[str],
    login: Callable[..., Celery],
    keep: Callable[..., str],
    guarded: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As a proxy answers whose server is away. Who has a subscription need not hear of that."""
    monkeypatch.setattr(redis_session, "AGAIN", 0.2)
    app = login(*("on", ">secret", "~*", "&*", "+@all"), *rights)
    interval = 0.5 if again == "reconcile" else 3600
    app.conf.result_drainer_reconcile_interval = interval
    with proxied(guarded.port) as proxy:
        url = app.conf.result_backend.replace(f":{guarded.port}/", f":{proxy.port}/")
        app.conf.result_backend = f"{url}&protocol={protocol}"
        ids = [uuid() for _ in range(5)]
        outcomes = [spawn_get(app.AsyncResult(task_id)) for task_id in ids]
        wait_until(lambda: subscribed(guarded, ids), "the subscriptions")
        # Answered in order, so all first looks are answered by then.
        assert app.AsyncResult(keep(2)).get(timeout=20) == 2
        proxy.spoil()
        if again == "reconnect":
            guarded.probe.execute_command("CLIENT", "KILL", "USER", "web")
        wait_until(lambda: "upstream failure" in caplog.text, "a failed look")
        assert "upstream failure" in str(error_of(app, uuid()))  # who begins to wait is told
        keep(0, task_id=ids[0])
        keep(1, task_id=ids[1])
        wait_until(lambda: outcomes[:2] == [[0], [1]], "what comes by message")
        meta = app.backend.encode({"status": "SUCCESS", "result": 2, "task_id": ids[2]})
        app.backend.client.set(f"{KEYS}{ids[2]}", meta)  # and no message tells of it
        wait_until(lambda: outcomes[2] == [2], "what is found by a further look")
        proxy.pass_on()
        assert outcomes[3:] == [[], []]
        for number in (3, 4):
            keep(number, task_id=ids[number])
        wait_until(lambda: outcomes[3:] == [[3], [4]], "the rest")
        assert sum("is asked again" in text for text in caplog.messages) == 1
        app.backend.result_consumer.stop()


def test_a_subscription_that_is_refused_is_told(
    login: Callable[..., Celery],
    keep: Callable[..., str],
    guarded: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = login("on", ">secret", "~*", "&*", "+@all", "-subscribe")
    assert app.AsyncResult(keep(7)).get(timeout=20) == 7  # it is stored, and needs none
    errors = crowd(3, lambda i: error_of(app, uuid()))
    assert all(isinstance(error, redis.exceptions.ResponseError) for error in errors)
    assert "subscribe" in str(errors[0]).lower()
    (told,) = [text for text in caplog.messages if REFUSES in text]
    assert "SUBSCRIBE, so only what is stored already is found" in told


def error_of(app: Celery, task_id: str, timeout: float = 20) -> Exception | None:
    try:
        app.AsyncResult(task_id).get(timeout=timeout)
    except Exception as exc:
        return exc
    return None


def test_one_refused_channel_concerns_its_own_task_alone(
    login: Callable[..., Celery], keep: Callable[..., str], guarded: RedisServer
) -> None:
    app = login("on", ">secret", "~*", "resetchannels", f"&{KEYS}a*", "+@all")
    ids = [f"a{uuid()}" for _ in range(10)] + [f"b{uuid()}"]

    def get(i: int) -> object:
        if i == len(ids):
            wait_until(lambda: subscribed(guarded, ids[:-1]), "the subscriptions")
            return [keep(j, task_id=task_id) for j, task_id in enumerate(ids[:-1])]
        try:
            return app.AsyncResult(ids[i]).get(timeout=20)
        except redis.exceptions.ResponseError as exc:
            return exc

    *values, refused, _ = crowd(len(ids) + 1, get)
    assert values == list(range(10))
    assert "channel" in str(refused)
    assert app.backend.result_consumer.statistics().connects == 1


def test_one_forbidden_key_concerns_its_own_task_alone(
    login: Callable[..., Celery], keep: Callable[..., str], guarded: RedisServer
) -> None:
    app = login("on", ">secret", f"~{KEYS}a*", "&*", "+@all")
    ids = [keep(i, task_id=f"a{i}-{uuid()}") for i in range(10)] + [keep(task_id=f"b{uuid()}")]
    *values, refused = crowd(len(ids), lambda i: value_or_error(app, ids[i]))
    assert values == list(range(10))
    assert isinstance(refused, redis.exceptions.ResponseError)


def test_a_forbidden_key_that_is_only_read_concerns_its_reader_alone(
    login: Callable[..., Celery], keep: Callable[..., str]
) -> None:
    app = login("on", ">secret", f"~{KEYS}a*", "&*", "+@all")
    assert app.AsyncResult(keep(1, task_id=f"a{uuid()}")).get(timeout=20) == 1
    for number in range(3):
        with pytest.raises(redis.exceptions.NoPermissionError):
            app.AsyncResult(f"b{uuid()}").state  # noqa: B018
        assert app.AsyncResult(keep(number, task_id=f"a{uuid()}")).get(timeout=20) == number
    assert app.backend.result_consumer.statistics().connects == 1


def test_a_channel_that_is_wanted_again_after_it_was_refused_with_another(
    login: Callable[..., Celery],
    keep: Callable[..., str],
    guarded: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who has left before the refusal came has left something to be unsubscribed from."""
    monkeypatch.setattr(redis_session, "LINGER", 60)
    wanted, forbidden = f"a{uuid()}", f"b{uuid()}"
    app = login("on", ">secret", "~*", "resetchannels", f"&{KEYS}a*", "+@all")
    app.conf.result_drainer_heartbeat = 30
    with proxied(guarded.port, delay=0.2) as proxy:
        port, through = f":{guarded.port}/", f":{proxy.port}/"
        app.conf.result_backend = app.conf.result_backend.replace(port, through)
        assert app.AsyncResult(keep(1, task_id=f"a{uuid()}")).get(timeout=20) == 1
        consumer, refused = app.backend.result_consumer, app.AsyncResult(forbidden)
        left, calls = app.AsyncResult(wanted), []
        # In one turn, so that one command asks for both.
        consumer.in_loop(lambda: [result.then(calls.append) for result in (refused, left)])
        wait_until(lambda: consumer.statistics().pending == 2, "both in the table")
        app.backend.remove_pending_result(left)
        wait_until(lambda: calls == [refused], "the refusal")
        guarded.reset_calls()
        outcome = spawn_get(app.AsyncResult(wanted), timeout=20)
        wait_until(lambda: guarded.calls("subscribe") and guarded.calls("mget"), "both commands")
        keep(2, task_id=wanted)
        wait_until(lambda: outcome == [2], "the result")
        proxy.pass_on()


@pytest.mark.parametrize("protocol", [2, 3])
def test_more_to_look_up_one_by_one_than_the_socket_takes(
    protocol: int, login: Callable[..., Celery], keep: Callable[..., str]
) -> None:
    app = login("on", ">secret", "~*", "&*", "+@all", "-mget")
    app.conf.result_backend += f"&protocol={protocol}"
    ids = [keep(i, task_id=f"{i}-" + "x" * 50_000) for i in range(300)]
    assert crowd(300, lambda i: value_or_error(app, ids[i])) == list(range(300))
    assert app.backend.result_consumer.statistics().connects == 1


def value_or_error(app: Celery, task_id: str) -> object:
    try:
        return app.AsyncResult(task_id).get(timeout=20)
    except Exception as exc:
        return exc


def test_a_database_that_is_not_there_is_told(
    guarded: RedisServer, make: Callable[..., Celery], caplog: pytest.LogCaptureFixture
) -> None:
    app = make(results=guarded.url("web", 99))
    error = error_of(app, uuid())
    assert not isinstance(error, TimeoutError)
    assert "DB index" in str(error)
    wait_until(lambda: "DB index" in caplog.text, "the log line")


def test_an_option_that_redis_py_does_not_know_is_told(
    guarded: RedisServer, make: Callable[..., Celery]
) -> None:
    error = error_of(make(results=f"{guarded.url('web')}&bogus=1"), uuid())
    assert not isinstance(error, TimeoutError)
    assert "'bogus'" in str(error)


@pytest.mark.skipif(celery.__version__ < "5.6", reason="Celery takes none before 5.6")
def test_a_password_that_is_late_is_waited_for(
    login: Callable[..., Celery], keep: Callable[..., str], guarded: RedisServer
) -> None:
    """What its provider raises says nothing of the options, whatever it is."""
    lacks = [TypeError("'NoneType' object is not subscriptable")] * 2

    class Provider(redis.CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            if lacks:
                raise lacks.pop()
            return "web", "secret"

    app = login("on", ">secret", "~*", "&*", "+@all", redis_backend_credential_provider=Provider())
    app.conf.result_backend = guarded.url("web", 1)
    assert app.AsyncResult(keep(1)).get(timeout=20) == 1
    assert not lacks


def test_a_select_that_is_refused_is_told(login: Callable[..., Celery]) -> None:
    app = login("on", ">secret", "~*", "&*", "+@all", "-select")
    error = error_of(app, uuid())
    assert not isinstance(error, TimeoutError)
    assert "select" in str(error)


@pytest.mark.parametrize("command", ["select", "exists"])
def test_a_search_that_is_refused_says_nothing(
    command: str,
    login: Callable[..., Celery],
    keep: Callable[..., str],
    guarded: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A result that is not where it should be may as well have been removed."""
    app = login("on", ">secret", "~*", "&*", "+@all", f"-{command}")
    app.conf.result_backend = app.conf.result_backend.replace("/1?", "/0?")
    comes(app, keep, guarded)  # the worker stores in database 1
    consumer = app.backend.result_consumer
    wait_until(lambda: not consumer.check.begun, "the search")
    comes(app, keep, guarded)
    assert (consumer.statistics().connects, consumer.statistics().outages) == (1, 0)
    assert "does not hold it" not in caplog.text


def test_cluster_mode_with_one_shard(make: Callable[..., Celery]) -> None:
    """As serverless Redis is: no command for keys of several slots."""
    server = in_cluster_mode()
    try:
        server.probe.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        wait_until(lambda: server.probe.cluster("INFO")["cluster_state"] == "ok", "the cluster")
        app, worker = make(results=server.url("web")), make(results=server.url("worker"))

        def keep(value: Any = 1, task_id: str | None = None) -> str:
            task_id = task_id or uuid()
            worker.backend.store_result(task_id, value, "SUCCESS")
            return task_id

        serves(app, keep, server)
        serves(app, keep, server)
        assert app.backend.result_consumer.statistics().connects == 1
    finally:
        server.end()


def in_cluster_mode() -> RedisServer:
    while True:
        try:
            return RedisServer("--cluster-enabled", "yes")
        except AssertionError as exc:
            # It takes another port as well, 10,000 above, which may be some client's.
            if "Address already in use" not in str(exc):
                raise


@pytest.mark.parametrize("protocol", [2, 3])
def test_how_many_connections(
    protocol: int,
    make: Callable[..., Celery],
    store: Callable[..., str],
    results: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make(results=f"{results.url('counted')}&protocol={protocol}")
    ids = [store(i) for i in range(50)]
    with caplog.at_level(logging.INFO):
        assert crowd(50, lambda i: app.AsyncResult(ids[i]).get(timeout=20)) == list(range(50))
    expected = 2 if protocol == 2 else 1
    assert app.backend.result_consumer.statistics().connections == expected
    assert len(results.clients("counted")) == expected
    assert "RESP3" not in caplog.text  # it was asked for, so there is nothing to tell


def test_a_wait_of_resp2_looks_twice_at_most(
    make: Callable[..., Celery], store: Callable[..., str], results: RedisServer
) -> None:
    """At once, and once more after the confirmation for what was not there."""
    app = make(results=f"{results.url('web')}&protocol=2")
    first, second = store(1), store(2)
    assert app.AsyncResult(first).get(timeout=20) == 1
    results.reset_calls()
    assert app.AsyncResult(second).get(timeout=20) == 2
    assert results.calls("mget") in (1, 2)  # as the confirmation may be faster than the look
    results.reset_calls()
    app.AsyncResult(uuid()).then(print)
    wait_until(lambda: results.calls("mget") == 2, "both looks")
