"""Result stores that must be polled: servers, and one as another package would write it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import states
from celery.backends.base import BaseBackend
from celery.result import result_from_tuple

from .green import wait_until
from .servers import Process, answers, free_port

if TYPE_CHECKING:
    import psycopg


#: A folder in memory, if there is one: SQLite waits for a disk at each result, and a busy disk may
#: take longer than SQLite waits for a lock.
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def as_user(name: str) -> list[str]:
    """What makes a command run as user *name*, where this is root, as which no server runs."""
    if os.getuid():
        return []
    return ["setpriv", f"--reuid={name}", f"--regid={name}", "--clear-groups"]


class PostgresServer:
    """A PostgreSQL that can be stopped and started again, and logs each statement."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory()
        self.data = f"{self.folder.name}/data"
        if not os.getuid():
            shutil.chown(self.folder.name, "postgres", "postgres")
        self.binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
        subprocess.run(
            [
                *(*as_user("postgres"), str(self.binaries / "initdb"), "--pgdata", self.data),
                *("--username", "tests", "--auth", "trust", "--no-sync", "--encoding", "UTF8"),
            ],
            check=True,
            capture_output=True,
        )
        self.process: Process
        self.start()

    def start(self) -> None:
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "log_statement": "all",
            "log_line_prefix": "%a|",
        }
        self.process = Process(
            *(*as_user("postgres"), str(self.binaries / "postgres"), "-D", self.data),
            *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
        )
        wait_until(self._answers, f"PostgreSQL on port {self.port}")

    def stop(self) -> None:
        """Stop at once, in the middle of what clients do."""
        self.process.end(signal.SIGQUIT)

    def end(self) -> None:
        self.stop()
        self.folder.cleanup()

    def url(self, client: str) -> str:
        """Its address for SQLAlchemy, for connections of that client's name."""
        return (
            f"db+postgresql+psycopg://tests@127.0.0.1:{self.port}/postgres"
            f"?application_name={client}"
        )

    def connect(self) -> psycopg.Connection[Any]:
        # Here, as it cannot be imported beside every green library, and few tests need it.
        import psycopg

        return psycopg.connect(f"host=127.0.0.1 port={self.port} user=tests dbname=postgres")

    def ask(self, query: str) -> Any:
        """The one value that *query* returns."""
        with self.connect() as connection:
            row = connection.execute(query).fetchone()
            assert row is not None
            return row[0]

    @contextmanager
    def locked(self, table: str) -> Iterator[None]:
        """Keep all from reading *table*."""
        with self.connect() as connection:
            connection.execute(f"LOCK TABLE {table}")
            yield

    def copy_result(self, task_id: str, others: list[str]) -> None:
        """Give *others* the result of *task_id*."""
        with self.connect() as connection:
            connection.execute(
                "INSERT INTO celery_taskmeta (id, task_id, status, result, date_done) "
                "SELECT nextval('task_id_sequence'), other, status, result, date_done "
                "FROM celery_taskmeta, unnest(%s::text[]) AS other WHERE task_id = %s",
                (others, task_id),
            )

    def _answers(self) -> bool:
        import psycopg

        if self.process.popen.poll() is not None:
            raise AssertionError(f"PostgreSQL ended:\n{self.process.output()}")
        try:
            return bool(self.ask("SELECT 1"))
        except psycopg.OperationalError:
            return False

    def connections(self, client: str) -> int:
        return int(
            self.ask(f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{client}'")
        )

    def statements(self, client: str) -> list[str]:
        """All statements of that client so far."""
        lines = self.process.output().splitlines()
        return [
            line for line in lines if line.startswith(f"{client}|LOG:  ") and "duration" not in line
        ]


class MemcachedServer:
    """A memcached that can be stopped and started again, without what it held."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process: Process
        self.start()

    def start(self) -> None:
        self.process = Process(
            *("memcached", "-l", "127.0.0.1", "-p", str(self.port), "-U", "0"),
            *([] if os.getuid() else ["-u", "nobody"]),
        )
        wait_until(self._answers, f"memcached on port {self.port}")

    def stop(self) -> None:
        self.process.end(signal.SIGKILL)

    end = stop

    def url(self, client: str = "") -> str:
        return f"cache+memcached://127.0.0.1:{self.port}/"

    def _answers(self) -> bool:
        if self.process.popen.poll() is not None:
            raise AssertionError(f"memcached ended:\n{self.process.output()}")
        try:
            return self.statistics()["uptime"] is not None
        except OSError:
            return False

    def statistics(self) -> dict[str, str]:
        """What memcached says of itself, on a connection that is not counted."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(b"stats\r\nquit\r\n")
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        lines = [line.split() for line in answer.decode().splitlines()]
        return {line[1]: line[2] for line in lines if len(line) == 3}


class OwnStore(BaseBackend):
    """Another package's store, of JSON files. It can do one thing at a time, as some do."""

    #: How long each call takes, in seconds.
    pause = 0.0

    def __init__(self, *args: Any, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, url=url, **kwargs)
        self.folder = Path(str(url).partition("://")[2])
        self.calls = 0
        self._busy = False

    def _file(self, name: str) -> Path:
        assert not self._busy, "two calls at once"
        self._busy = True
        self.calls += 1
        time.sleep(self.pause)
        self._busy = False
        return self.folder / name

    def _read(self, name: str) -> Any:
        try:
            return json.loads(self._file(name).read_text())
        except FileNotFoundError:
            return None

    def _write(self, name: str, content: Any) -> None:
        file = self._file(name)
        fresh = file.with_name(f"{name}.{time.monotonic_ns()}")
        fresh.write_text(json.dumps(content))
        fresh.replace(file)

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        if self.get_state(task_id) == states.SUCCESS:
            return result
        meta = self._get_result_meta(result, state, traceback, request)
        self._write(task_id, self.encode({**meta, "task_id": task_id}))
        return result

    def _get_task_meta_for(self, task_id: str) -> Any:
        content = self._read(task_id)
        if content is None:
            return {"status": states.PENDING, "result": None}
        return self.decode_result(content)

    def _forget(self, task_id: str) -> None:
        self._file(task_id).unlink(missing_ok=True)

    def _save_group(self, group_id: str, result: Any) -> Any:
        self._write(group_id, result.as_tuple())
        return result

    def _restore_group(self, group_id: str) -> Any:
        content = self._read(group_id)
        return content and {"result": result_from_tuple(content, self.app)}

    def _delete_group(self, group_id: str) -> None:
        self._file(group_id).unlink(missing_ok=True)


def configure_django() -> Path:
    """Set this process up as a Django project with its tables; return the project's folder."""
    folder = Path(tempfile.mkdtemp(dir=IN_MEMORY))
    os.environ["TESTS_DJANGO"] = str(folder)
    import django
    from django.conf import settings
    from django.core.management import call_command

    from . import django_settings

    # Not by the environment, where Celery would look for it with each app.
    settings.configure(
        **{name: value for name, value in vars(django_settings).items() if name.isupper()}
    )
    django.setup()
    call_command("migrate", verbosity=0)
    return folder


class PgBouncer:
    """What stands between clients and a PostgreSQL, and has fewer connections than clients.

    :param mode: for how long a client keeps one: ``session`` or ``transaction``.
    :param size: how many there are.
    """

    def __init__(self, server: PostgresServer, mode: str, size: int) -> None:
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory()
        config = Path(self.folder.name) / "pgbouncer.ini"
        config.write_text(
            f"[databases]\npostgres = host=127.0.0.1 port={server.port} user=tests\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\n"
            f"unix_socket_dir =\nauth_type = any\npool_mode = {mode}\n"
            f"default_pool_size = {size}\n"
        )
        if not os.getuid():
            shutil.chown(self.folder.name, "postgres", "postgres")
        path = f"{os.environ['PATH']}:/usr/sbin"
        executable = shutil.which("pgbouncer", path=path)
        assert executable, "There is no pgbouncer."
        self.process = Process(*as_user("postgres"), executable, str(config))
        wait_until(lambda: answers(self.port), f"PgBouncer on port {self.port}")

    def url(self) -> str:
        """Its address for SQLAlchemy."""
        return f"db+postgresql+psycopg://tests@127.0.0.1:{self.port}/postgres"

    def end(self) -> None:
        self.process.end()
        self.folder.cleanup()


@dataclass
class Store:
    """One kind of store, as the tests use it."""

    name: str
    #: The ``result_backend`` of the process that waits.
    url: str
    #: The same store for a worker without this package's settings.
    worker_url: str
    #: What a worker needs in its environment.
    environment: dict[str, str] = field(default_factory=dict)
