"""A web site whose pages follow tasks: plain WSGI, Flask and Django, for a real gunicorn.

``/plain?steps=20`` starts a task and follows it; ``/flask/ID`` and ``/django/ID`` follow one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

import django
import flask
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.urls import path
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from celery_green_drain import sse

from .tasks import make_app

app = make_app(os.environ["SITE_BROKER"], os.environ["SITE_RESULTS"], result_drainer="gevent")

#: Short, so that the tests see it.
KEEP_ALIVE = 0.2


def plain(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    steps = int(parse_qs(environ["QUERY_STRING"])["steps"][0])
    result = app.tasks["progress"].delay(steps, 0)
    start_response("200 OK", [("Content-Type", sse.CONTENT_TYPE), *sse.HEADERS.items()])
    return sse.stream(result)


web = flask.Flask(__name__)


@web.get("/<task_id>")
def flask_events(task_id: str) -> flask.Response:
    return sse.flask_response(app.AsyncResult(task_id), keep_alive=KEEP_ALIVE)


settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="tests",
    MIDDLEWARE=["django.middleware.gzip.GZipMiddleware"],
)
django.setup()


def django_events(request: Any, task_id: str) -> Any:
    return sse.django_response(request, app.AsyncResult(task_id), keep_alive=KEEP_ALIVE)


urlpatterns = [path("<task_id>", django_events)]

application = DispatcherMiddleware(plain, {"/flask": web, "/django": WSGIHandler()})
