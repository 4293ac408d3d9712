"""The web application. ``serve_gevent.py`` and ``serve_eventlet.py`` run it."""

from dataclasses import asdict
from pathlib import Path

from flask import Flask
from flask_socketio import SocketIO, join_room
from tasks import app, render

from celery_green_drain import watch

web = Flask(__name__)
socketio = SocketIO()

PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")


@web.get("/")
def page():
    return PAGE


@web.get("/statistics")
def statistics():
    """What drains the results of this process, and over how many connections."""
    return asdict(app.backend.result_consumer.statistics())


@socketio.on("join")
def join(room):
    join_room(room)


@socketio.on("render")
def start(room, pages):
    """Start a task for all who are in *room*, and return its id."""
    result = render.delay(pages)
    socketio.start_background_task(follow, result, room)
    return result.id


def follow(result, room):
    """Push each state of the task to the room that has asked for it."""
    for state in watch(result, timeout=600):
        message = {"id": state.task_id, "status": state.status, "last": state.last}
        message["result"] = state.result if state.status != "FAILURE" else str(state.result)
        socketio.emit("state", message, to=room)
