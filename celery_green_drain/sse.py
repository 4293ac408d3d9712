"""Server-Sent Events: the states of a task, pushed to a browser over plain HTTP.

:func:`stream` makes the body of a response for any WSGI server, :func:`flask_response` and
:func:`django_response` the whole response. The browser needs no library::

    const source = new EventSource("/tasks/" + taskId + "/events");
    source.addEventListener("state", event => show(JSON.parse(event.data)));
    source.addEventListener("end", event => { show(JSON.parse(event.data)); source.close(); });
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from celery.exceptions import TimeoutError
from celery.result import ResultBase

from .errors import DrainerStopped
from .internals import as_text, leaves
from .notices import notify
from .quoting import one_line
from .watching import State, States, follow

__all__ = (
    "CONTENT_TYPE",
    "HEADERS",
    "SCRIPT",
    "describe",
    "django_response",
    "flask_response",
    "format_event",
    "is_over",
    "poll",
    "stream",
)

logger = logging.getLogger(__name__)

CONTENT_TYPE = "text/event-stream"

#: What a response needs besides, so that no cache and no proxy holds the events back.
HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}

#: A script for pages, to be served as it is: the element ``<task-progress>``, a progress bar.
SCRIPT = Path(__file__).with_name("static") / "task-progress.js"

#: Seconds of silence after which a comment is sent.
KEEP_ALIVE = 15.0

#: Seconds that the browser waits before it connects again.
RETRY = 3.0


def describe(state: State) -> dict[str, Any]:
    """What the browser is told of *state*, unless told otherwise."""
    return {
        "task_id": state.task_id,
        "status": state.status,
        "result": state.result,
        "done": state.done,
        "total": state.total,
        "failed": state.failed,
    }


def stream(
    result: ResultBase,
    *,
    last_event_id: str | None = None,
    timeout: float | None = None,
    keep_alive: float = KEEP_ALIVE,
    retry: float = RETRY,
    data: Callable[[State], Any] = describe,
) -> Generator[bytes, None, None]:
    """Yield the events of *result*: ``state`` for each state on the way, ``end`` for the last.

    :param result: as for :func:`~celery_green_drain.watch`, which raises the errors.
    :param last_event_id: the request's header ``Last-Event-ID``: a state that the browser has
        seen already is left out.
    :param timeout: seconds in all; after that an event ``timeout`` ends the stream. None: no limit.
    :param keep_alive: seconds of silence after which a comment is sent. It keeps proxies from
        closing the connection, and shows whether the browser is still there.
    :param retry: seconds that the browser is to wait before it connects again.
    :param data: makes of a state what is sent of it, as JSON. What JSON has no form for is sent
        as text. Of an exception that is its class's name and its message, without the traceback;
        of one that is not the task's own, but why its result cannot be read, the class's name
        alone, as the message may hold what is of the server, such as a query. An exception that
        it makes text of by itself is sent as that: see ``state.unreadable``.
    :raises ValueError: where *keep_alive* or *retry* is no positive number, or *timeout* is not a
        number.
    """
    for name, seconds in (("keep_alive", keep_alive), ("retry", retry)):
        if not 0 < seconds < math.inf:
            raise ValueError(f"{name} = {seconds!r}: expected a number of seconds greater than 0.")
    states = follow(result, timeout, tick=keep_alive)
    return _events(states, _end_id(result), last_event_id, retry, data)


def poll(result: ResultBase, data: Callable[[State], Any] = describe) -> str:
    """What is known of *result* now, as JSON: for a browser that no events reach.

    It is ``{"event": ..., "data": ...}`` as in :func:`stream`: the newest ``state``, the ``end``,
    or the event ``none``, without data, where nothing is known so far.

    :param result: as for :func:`~celery_green_drain.watch`, which raises the errors.
    :param data: as for :func:`stream`.
    """
    event, text = "none", "null"
    if next(leaves(result), None) is None:
        event, text = "end", _json(NO_MEMBERS)
    with suppress(TimeoutError):  # not all have ended
        for state in follow(result, timeout=0):
            if state is not None:
                event = "end" if state.last else "state"
                text = _json(data(state), secret=state.unreadable)
    return f'{{"event": "{event}", "data": {text}}}'


def is_over(result: ResultBase, last_event_id: str | None) -> bool:
    """Whether the browser has seen the end already, by its ``Last-Event-ID``.

    It connects again after the end unless its page closes the source. The answer to that is
    the status 204, which stops it.
    """
    return last_event_id is not None and last_event_id == _end_id(result)


def flask_response(result: ResultBase, **options: Any) -> Any:
    """Answer the current request of Flask with the events of *result*.

    :param options: as for :func:`stream`.
    """
    from flask import Response, request

    last_event_id = request.headers.get("Last-Event-ID")
    if is_over(result, last_event_id):
        return Response(status=204)
    body = stream(result, last_event_id=last_event_id, **options)
    return Response(body, content_type=CONTENT_TYPE, headers=HEADERS)


def django_response(request: Any, result: ResultBase, **options: Any) -> Any:
    """Answer *request* of Django, under WSGI, with the events of *result*.

    Under ASGI there is a :exc:`~celery_green_drain.DrainerWarning`: nothing would be pushed.

    :param options: as for :func:`stream`.
    """
    from django.core.handlers.asgi import ASGIRequest
    from django.http import HttpResponse, StreamingHttpResponse

    if isinstance(request, ASGIRequest):
        notify(
            "sse.django_response() is for WSGI. Under ASGI Django reads the whole stream before it "
            "sends any of it, and a thread stays when the browser has gone: serve it under WSGI."
        )
    last_event_id = request.headers.get("Last-Event-ID")
    if is_over(result, last_event_id):
        return HttpResponse(status=204)
    body = stream(result, last_event_id=last_event_id, **options)
    # Django's GZipMiddleware would hold the events back, unless it sees this.
    headers = {**HEADERS, "Content-Encoding": "identity"}
    return StreamingHttpResponse(body, content_type=CONTENT_TYPE, headers=headers)


def _events(
    states: States,
    end_id: str,
    last_event_id: str | None,
    retry: float,
    data: Callable[[State], Any],
) -> Generator[bytes, None, None]:
    # Something goes out at once, as the headers go with it.
    yield format_event(retry=retry)
    begun: set[str] = set()
    try:
        for state in _as_long_as_served(states):
            if state is None:
                yield b":\n\n"
                continue
            text = _json(data(state), secret=state.unreadable)
            event_id = end_id if state.last else _digest(text)
            # Only the first state of a task can be one that was seen before.
            if event_id != last_event_id or state.task_id in begun:
                yield format_event(text, "end" if state.last else "state", event_id)
            begun.add(state.task_id)
        if not begun:  # a group without members
            yield format_event(_json(NO_MEMBERS), "end", end_id)
    except TimeoutError:
        yield format_event("{}", "timeout")
    except (DrainerStopped, _NotServed):
        pass  # the browser connects again; where this process shuts down, another one serves
    finally:
        states.close()


class _NotServed(Exception):
    """Raised where no further states are to be had."""


def _as_long_as_served(states: States) -> Iterator[State | None]:
    """*states*; an error of theirs, such as of a server that refuses us, is told from others."""
    try:
        yield from states
    except (TimeoutError, DrainerStopped):
        raise
    except Exception as exc:
        logger.warning("A stream of events ends early: %s", one_line(exc))
        raise _NotServed from exc


def format_event(
    data: str | None = None,
    event: str | None = None,
    id: str | None = None,
    retry: float | None = None,
) -> bytes:
    """One event in the form that goes over the wire; *data* may have several lines.

    :param retry: seconds.
    :raises ValueError: where *event* or *id* has a line break, or *id* a NUL.
    """
    lines = []
    if retry is not None:
        lines.append(f"retry: {retry * 1000:.0f}")
    for name, value in (("id", id), ("event", event)):
        if value is not None:
            if len(_lines(value)) > 1 or "\0" in value:
                raise ValueError(f"{name} = {value!r}: it must be one line, without NUL.")
            lines.append(f"{name}: {value}")
    if data is not None:
        lines += [f"data: {line}" for line in _lines(data)]
    return "".join(f"{line}\n" for line in [*lines, ""]).encode()


def _lines(text: str) -> list[str]:
    # Not splitlines(), which knows more line breaks than the format does.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _end_id(result: ResultBase) -> str:
    return _digest("\n".join(sorted({as_text(node.id) for node in leaves(result)}))) + "-end"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="backslashreplace"), digest_size=12).hexdigest()


#: The end of a group without members.
NO_MEMBERS = {"done": 0, "total": 0, "failed": 0}

#: What a browser is told in place of the message of an error that is not the task's own.
UNREADABLE = "The result cannot be read."


def _json(value: Any, secret: bool = False) -> str:
    try:
        return json.dumps(_plain(value, secret))
    except RecursionError:  # it contains itself
        return json.dumps(UNREADABLE if secret else str(value))


def _plain(value: Any, secret: bool) -> Any:
    """*value* in what a browser can read. kombu's JSON is for Python at both ends.

    :param secret: whether the messages of errors are not for a browser.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, secret) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, secret) for item in value]
    if isinstance(value, BaseException):
        return {"type": type(value).__name__, "message": UNREADABLE if secret else str(value)}
    isoformat = getattr(value, "isoformat", None)  # dates and times
    return str(value if isoformat is None else isoformat())
