"""``serve_eventlet.py [PORT]``: serve the application with eventlet."""

import eventlet

eventlet.monkey_patch()

import sys  # noqa: E402

from web import socketio, web  # noqa: E402

if __name__ == "__main__":
    socketio.init_app(web, async_mode="eventlet")
    socketio.run(web, host="127.0.0.1", port=int(sys.argv[1]) if sys.argv[1:] else 8000)
