"""The web application, for gunicorn's gevent worker."""

from pathlib import Path

from flask import Flask, request
from tasks import add, app, render

from celery_green_drain import sse

web = Flask(__name__)

PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")


@web.get("/")
def page():
    return PAGE


@web.get("/add")
def addition():
    """Wait for a result in the request. Other requests go on meanwhile."""
    x, y = request.args.get("x", 2, type=int), request.args.get("y", 3, type=int)
    return {"sum": add.delay(x, y).get(timeout=10)}


@web.post("/tasks")
def start():
    pages = request.form.get("pages", 20, type=int)
    return {"id": render.delay(pages).id}, 202


@web.get("/tasks/<task_id>/events")
def events(task_id):
    """Each state of the task, as it comes, and its end."""
    return sse.flask_response(app.AsyncResult(task_id))
