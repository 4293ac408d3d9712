"""``eventlet_site PORT``: the site in four processes that were forked by hand, by eventlet.wsgi."""

import os
import sys
from tests.launch import patch

patch("eventlet")
import eventlet
from eventlet import wsgi
import tests.site

listener = eventlet.listen(("127.0.0.1", int(sys.argv[1])))
tests.site.use()  # before the fork
children = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        wsgi.server(listener, tests.site.application, log_output=False)
        os._exit(0)
    children.append(pid)
print("ready", flush=True)
for pid in children:
    os.waitpid(pid, 0)
