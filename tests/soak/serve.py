"""``serve.py PORT``: the web application under eventlet, which gunicorn has no worker for."""

from __future__ import annotations

import sys

from ..launch import patch

if __name__ == "__main__":
    patch("eventlet")

    import eventlet
    from eventlet import wsgi

    from .site import application

    wsgi.server(eventlet.listen(("127.0.0.1", int(sys.argv[1]))), application, log_output=False)
