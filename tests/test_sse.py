"""Server-Sent Events: what goes over the wire, and a thousand browsers on one web process."""

from __future__ import annotations

import datetime
import decimal
import json
import resource
import sys
import time
import uuid as uuid_type
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, uuid
from celery.result import ResultSet

from celery_green_drain import DrainerWarning, sse

from .green import GREEN, MODE, spawn, wait_until
from .servers import Process, RedisServer, free_port
from .sse_client import Event, EventSource, Parser, follow_many, parse

served = pytest.mark.skipif(
    GREEN, reason="the site is a process of its own, whatever has patched this one"
)


def step(app: Celery, task_id: str, meta: Any) -> None:
    app.backend.store_result(task_id, meta, "PROGRESS")


# -- the format


@pytest.mark.parametrize("text", ["one", "", "two\nlines", "a\r\nb\rc\n", " space", "\u2028x"])
def test_data_of_several_lines(text: str) -> None:
    (event,) = parse(sse.format_event(text, "note", "7"))
    assert event == Event("note", "7", text.replace("\r\n", "\n").replace("\r", "\n"))


def test_retry_alone_is_no_event() -> None:
    parser = Parser()
    assert list(parser.feed(sse.format_event(retry=1.5))) == []
    assert parser.retry == 1500


@pytest.mark.parametrize("field", ["id", "event"])
@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b"])
def test_a_field_that_would_break_the_format(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{field} = "):
        sse.format_event("data", **{field: value})


class Opaque:
    def __str__(self) -> str:
        return "opaque"


def test_what_json_has_no_form_for(app: Celery) -> None:
    circle: list[Any] = []
    circle.append(circle)
    values: list[tuple[Any, Any]] = [
        ({"a": [1, 2.5, None, True]}, {"a": [1, 2.5, None, True]}),
        ({"loss": float("nan"), "gain": float("inf")}, {"loss": None, "gain": None}),
        ({(1, 2): {3}}, {"(1, 2)": [3]}),
        (datetime.datetime(2026, 1, 2, 3, 4), "2026-01-02T03:04:00"),
        (decimal.Decimal("1.10"), "1.10"),
        (KeyError("x"), {"type": "KeyError", "message": "'x'"}),
        ([Opaque()], ["opaque"]),
        ("two\nlines", "two\nlines"),
        (circle, "[[...]]"),
    ]
    for value, expected in values:
        result = app.AsyncResult(uuid())
        result._cache = {"status": "SUCCESS", "result": value}
        (event,) = parse(*sse.stream(result, data=lambda state: state.result))
        assert event.json == expected
        assert "\n" not in event.data


# -- a stream


def test_the_stream_of_a_task(app: Celery) -> None:
    task_id = uuid()
    step(app, task_id, {"step": 1})
    stream, parser = sse.stream(app.AsyncResult(task_id), retry=7), Parser()
    assert list(parser.feed(next(stream))) == []  # the headers go out with it
    assert parser.retry == 7000
    (first,) = parser.feed(next(stream))
    assert first.name == "state"
    assert first.json == {
        "task_id": task_id,
        "status": "PROGRESS",
        "result": {"step": 1},
        "done": 0,
        "total": 1,
        "failed": 0,
    }
    app.backend.store_result(task_id, "done", "SUCCESS")
    (last,) = parser.feed(b"".join(stream))
    assert (last.name, last.json["status"], last.json["result"]) == ("end", "SUCCESS", "done")
    assert last.json["done"] == 1
    assert first.id != last.id


def test_no_traceback_leaves_the_house(app: Celery, worker: object) -> None:
    text = b"".join(sse.stream(app.tasks["fail"].delay("bad luck"))).decode()
    (event,) = [event for event in parse(text.encode()) if event.name == "end"]
    assert event.json["status"] == "FAILURE"
    assert event.json["result"] == {"type": "ValueError", "message": "bad luck"}
    assert "Traceback" not in text
    assert ".py" not in text


def test_polling_says_what_the_events_say(app: Celery, store: Callable[..., str]) -> None:
    task_id = uuid()
    result = app.AsyncResult(task_id)
    assert json.loads(sse.poll(result)) == {"event": "none", "data": None}
    step(app, task_id, {"step": 1})
    state = json.loads(sse.poll(result))
    assert (state["event"], state["data"]["result"]) == ("state", {"step": 1})
    members = ResultSet([result, app.AsyncResult(store(5))])
    of_group = json.loads(sse.poll(members))
    assert (of_group["event"], of_group["data"]["done"], of_group["data"]["total"]) == (
        "state",
        1,
        2,
    )
    app.backend.store_result(task_id, "done", "SUCCESS")
    end = json.loads(sse.poll(result, data=lambda state: state.result))
    assert end == {"event": "end", "data": "done"}
    assert json.loads(sse.poll(members))["event"] == "end"
    assert json.loads(sse.poll(ResultSet([])))["data"] == {"done": 0, "total": 0, "failed": 0}


def test_data_of_ones_own(app: Celery, store: Callable[..., str]) -> None:
    result = app.AsyncResult(store(5))
    (event,) = parse(*sse.stream(result, data=lambda state: f"{state.status} {state.result}"))
    assert event.json == "SUCCESS 5"


def test_silence_is_filled_with_comments(app: Celery) -> None:
    stream = sse.stream(app.AsyncResult(uuid()), keep_alive=0.05)
    next(stream)
    assert [next(stream) for _ in range(3)] == [b":\n\n"] * 3
    stream.close()


def test_timeout(app: Celery) -> None:
    (event,) = parse(*sse.stream(app.AsyncResult(uuid()), timeout=0.2))
    assert event.name == "timeout"


def test_a_stop_ends_the_stream(app: Celery, results: RedisServer) -> None:
    pieces: list[bytes] = []
    over: list[bool] = []

    def read() -> None:
        pieces.extend(sse.stream(app.AsyncResult(uuid())))
        over.append(True)

    reader = spawn(read)
    wait_until(results.subscriptions, "its subscription")
    app.backend.result_consumer.stop()
    wait_until(lambda: over, "the end of the stream")
    assert parse(*pieces) == []
    del reader


def test_a_vanished_reader_leaves_nothing(app: Celery, results: RedisServer) -> None:
    stream = sse.stream(app.AsyncResult(uuid()), keep_alive=0.05)
    next(stream)
    assert next(stream) == b":\n\n"
    wait_until(results.subscriptions, "its subscription")
    stream.close()
    wait_until(lambda: not results.subscriptions(), "the end of the subscription")


@pytest.mark.parametrize("name", ["keep_alive", "retry"])
@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_impossible_seconds(app: Celery, name: str, seconds: float) -> None:
    with pytest.raises(ValueError, match=f"{name} = "):
        sse.stream(app.AsyncResult(uuid()), **{name: seconds})


def test_what_is_no_result_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="'b0b'"):
        sse.stream("b0b")


# -- connecting again


def test_a_state_that_was_seen_is_not_sent_again(app: Celery) -> None:
    task_id = uuid()
    step(app, task_id, 1)
    stream = sse.stream(app.AsyncResult(task_id))
    next(stream)
    (seen,) = parse(next(stream))
    stream.close()

    again = sse.stream(app.AsyncResult(task_id), last_event_id=seen.id, keep_alive=0.2)
    next(again)
    assert next(again) == b":\n\n"  # nothing new
    step(app, task_id, 2)
    (second,) = parse(next(again))
    assert second.json["result"] == 2
    step(app, task_id, 1)  # as before, but it is news again
    (third,) = parse(next(again))
    assert (third.json["result"], third.id) == (1, seen.id)
    again.close()


def test_the_end_is_always_sent(app: Celery) -> None:
    task_id = uuid()
    step(app, task_id, 1)
    stream = sse.stream(app.AsyncResult(task_id))
    next(stream)
    (seen,) = parse(next(stream))
    stream.close()
    app.backend.store_result(task_id, 1, "SUCCESS")
    result = app.AsyncResult(task_id)
    assert not sse.is_over(result, seen.id)
    (end,) = parse(*sse.stream(result, last_event_id=seen.id))
    assert (end.name, end.json["result"]) == ("end", 1)
    assert sse.is_over(result, end.id)
    assert not sse.is_over(result, None)
    assert not sse.is_over(app.AsyncResult(uuid()), end.id)


@pytest.mark.parametrize("kind", [uuid_type.UUID, str.encode])
def test_an_id_that_is_no_text(
    kind: Callable[[str], Any], app: Celery, store: Callable[..., str]
) -> None:
    task_id = store(1)
    result = app.AsyncResult(kind(task_id))
    (end,) = parse(*sse.stream(result))
    assert (end.json["task_id"], end.json["result"]) == (task_id, 1)
    assert sse.is_over(app.AsyncResult(task_id), end.id)


def test_a_group(app: Celery, store: Callable[..., str]) -> None:
    result = ResultSet([app.AsyncResult(store(i)) for i in range(3)])
    events = parse(*sse.stream(result))
    assert [event.name for event in events] == ["state", "state", "end"]
    assert [event.json["done"] for event in events] == [1, 2, 3]
    assert {event.json["result"] for event in events} == {0, 1, 2}
    assert len({event.id for event in events}) == 3
    assert sse.is_over(result, events[-1].id)
    assert [event.json["failed"] for event in events] == [0, 0, 0]
    again = parse(*sse.stream(result, last_event_id=events[0].id))
    assert [event.id for event in again] == [event.id for event in events[1:]]


def test_a_group_of_which_a_member_has_failed(app: Celery, store: Callable[..., str]) -> None:
    """The end is the last one's, and may be a success: that is not the whole group's."""
    ids = [store(ValueError("on purpose"), "FAILURE"), *map(store, range(2))]
    result = ResultSet([app.AsyncResult(task_id) for task_id in ids])
    *_, end = parse(*sse.stream(result))
    assert (end.json["done"], end.json["total"], end.json["failed"]) == (3, 3, 1)
    assert json.loads(sse.poll(result))["data"]["failed"] == 1


def test_a_group_without_members() -> None:
    """The browser is told so, or it would connect again and again."""
    (end,) = parse(*sse.stream(ResultSet([])))
    assert (end.name, end.json) == ("end", {"done": 0, "total": 0, "failed": 0})
    assert sse.is_over(ResultSet([]), end.id)


# -- a web server


@pytest.fixture(scope="module")
def site(broker: RedisServer, results: RedisServer, worker: object) -> Iterator[str]:
    """The address of a gunicorn with one gevent worker."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a socket for each client
    port = free_port()
    process = Process(
        *(sys.executable, "-m", "gunicorn", "--worker-class", "gevent", "--workers", "1"),
        *("--worker-connections", "2000", "--backlog", "2048"),
        *("--bind", f"127.0.0.1:{port}", "tests.sse_site:application"),
        measured=MODE == "gevent",
        SITE_BROKER=broker.url(),
        SITE_RESULTS=results.url("sse"),
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.popen.poll() is None, process.output()
        try:
            return [event.name for event in EventSource(f"{url}/plain?steps=0")] == ["end"]
        except OSError:
            return False

    wait_until(answers, "gunicorn", timeout=60)
    yield url
    process.end()
    assert "Traceback" not in process.output()
    assert "Exception ignored" not in process.output()


@served
@pytest.mark.parametrize("framework", ["flask", "django"])
def test_responses(site: str, app: Celery, results: RedisServer, framework: str) -> None:
    task_id = uuid()
    step(app, task_id, {"step": 1})
    url = f"{site}/{framework}/{task_id}"
    source = EventSource(url)
    assert source.response.status == 200
    assert source.response.headers["Content-Type"] == "text/event-stream"
    assert source.response.headers["X-Accel-Buffering"] == "no"
    assert "no-cache" in source.response.headers["Cache-Control"]
    events = iter(source)
    seen = next(events)
    assert seen.json["result"] == {"step": 1}

    # The browser loses the connection, and connects again.
    source.close()
    wait_until(lambda: not results.subscriptions("sse"), "the end of the subscription")
    source = EventSource(url, seen.id)
    events = iter(source)
    app.backend.store_result(task_id, "done", "SUCCESS")
    last = next(events)
    assert (last.name, last.json["result"]) == ("end", "done")
    assert next(events, None) is None
    assert source.parser.retry == 3000

    # And once more, after the end.
    assert EventSource(url, last.id).response.status == 204
    assert [event.id for event in EventSource(url, seen.id)] == [last.id]


@served
def test_keep_alive_comments_arrive(site: str, app: Celery) -> None:
    source = EventSource(f"{site}/flask/{uuid()}")
    while source.parser.comments < 3:
        assert not list(source.parser.feed(source.response.read1()))
    source.close()


@served
def test_a_thousand_clients(site: str, results: RedisServer) -> None:
    count, steps = 1000, 20
    most: list[int] = []
    over: list[bool] = []

    def count_connections() -> None:
        while not over:
            most.append(len(results.clients("sse")))
            time.sleep(0.5)

    counting = spawn(count_connections)
    streams = follow_many(f"{site}/plain?steps={steps}", count)
    over.append(True)
    counting.join()
    assert len({json.dumps(events[0].json["task_id"]) for events in streams}) == count
    for events in streams:
        *on_the_way, last = events
        assert (last.name, last.json["status"], last.json["result"]) == ("end", "SUCCESS", steps)
        assert {event.name for event in on_the_way} <= {"state"}
        assert len({event.json["task_id"] for event in events}) == 1
        numbers = [e.json["result"]["step"] for e in on_the_way if e.json["status"] == "PROGRESS"]
        assert numbers == sorted(set(numbers))
    # They are followed, not only told of the end. How closely depends on how busy the machine is.
    assert sum(map(len, streams)) > 4 * count
    assert max(most) == 1
    wait_until(lambda: not results.subscriptions("sse"), "the end of all subscriptions")


@pytest.mark.usefixtures("django")
def test_django_under_asgi_is_told(app: Celery) -> None:
    from django.test import AsyncRequestFactory

    request = AsyncRequestFactory().get("/")
    with pytest.warns(DrainerWarning, match="is for WSGI"):
        response = sse.django_response(request, app.AsyncResult(uuid()), timeout=0)
    response.close()


def test_a_refusal_ends_the_stream(make: Callable[..., Celery], own: RedisServer) -> None:
    """The browser connects again, as after the end of the process."""
    own.probe.config_set("requirepass", "secret")
    app = make(results=own.url("web"))
    events = b"".join(sse.stream(app.AsyncResult(uuid()), timeout=60))
    assert events == sse.format_event(retry=sse.RETRY)
