"""The doctor finds each mistake that is made here for real."""

from __future__ import annotations

import importlib
import json
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_green_drain import DrainerWarning
from celery_green_drain.inspection import checks
from celery_green_drain.inspection.doctor import Diagnosis, diagnose
from celery_green_drain.inspection.executed import check_command
from celery_green_drain.inspection.findings import LEVELS, RULES

from .green import GREEN
from .proxy import proxied
from .rabbitmq import RabbitServer
from .servers import UNMEASURED, RedisServer, Worker, free_port
from .tasks import make_app

pytestmark = pytest.mark.skipif(GREEN, reason="a command is a process that nothing patches")


def ids(diagnosis: Diagnosis, level: str = "warning") -> list[str]:
    return [finding.id for finding in diagnosis.at_least(level)]


def text(diagnosis: Diagnosis, id_: str) -> str:
    (finding,) = (finding for finding in diagnosis.findings if finding.id == id_)
    return finding.text


def alone(**conf: Any) -> Diagnosis:
    """The diagnosis of an app whose servers are not asked."""
    backend = conf.pop("result_backend", "redis://127.0.0.1:1/0")
    app = Celery("doctor", broker="memory://", backend=backend, set_as_current=False)
    app.conf.update({"result_drainer": "auto", **conf})
    diagnosis = Diagnosis("", "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DrainerWarning)
        diagnosis.findings.extend([*checks.check_packages(app), *checks.check_settings(app)])
    return diagnosis


# -- settings


@pytest.mark.parametrize(
    ("conf", "found", "says"),
    [
        ({}, [], ""),
        ({"result_drainer": None}, ["GD001"], "not set"),
        ({"result_drainer": "gevnt"}, ["GD002"], "Did you mean 'gevent'"),
        ({"result_drainer_hartbeat": 3}, ["GD002"], "Did you mean 'result_drainer_heartbeat'"),
        ({"result_drainer_heartbeat": "soon"}, ["GD002"], "seconds"),
        ({"results_drainer": "gevent"}, ["GD003"], "write 'result_drainer'"),
        ({"result_backend": None}, ["GD004"], "not set"),
        ({"result_backend": "disabled://"}, ["GD004"], "not set"),
        (
            {"result_backend": "celery.backends.redis:RedisBackend"},
            ["GD005"],
            "green+celery.backends.redis:RedisBackend://",
        ),
        ({"task_ignore_result": True}, ["GD006"], "task_ignore_result"),
        ({"result_expires": 5}, ["GD007"], "5 seconds"),
        ({"task_always_eager": True}, ["GD008"], "task_always_eager"),
    ],
)
def test_settings(conf: dict[str, Any], found: list[str], says: str) -> None:
    diagnosis = alone(**conf)
    assert ids(diagnosis) == found
    assert not found or says in text(diagnosis, found[0])


# -- packages


def test_a_green_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    lack(monkeypatch, "gevent")
    diagnosis = alone(result_drainer="gevent")
    assert ids(diagnosis) == ["GD101"]
    assert "pip install 'celery-green-drain[gevent]'" in text(diagnosis, "GD101")


def test_hiredis_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    lack(monkeypatch, "hiredis")
    assert ids(alone()) == ["GD103"]


def lack(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    installed = checks.installed
    monkeypatch.setattr(
        checks, "installed", lambda other: None if other == name else installed(other)
    )


@pytest.mark.parametrize("version", ["4.5.5", "99.0"])
def test_redis_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    installed = checks.installed
    monkeypatch.setattr(
        checks, "installed", lambda name: version if name == "redis" else installed(name)
    )
    diagnosis = alone()
    assert set(ids(diagnosis)) & {"GD102", "GD104"}
    assert f"redis is {version}" in diagnosis.findings[0].text


def test_packaging_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert ids(alone()) == ["GD101"]


# -- Redis


@contextmanager
def set_to(server: RedisServer, **options: Any) -> Iterator[None]:
    """Give a server other options for a while."""
    before = {name: server.probe.config_get(name)[name] for name in map(dashed, options)}
    for name, value in options.items():
        server.probe.config_set(dashed(name), value)
    try:
        yield
    finally:
        for name, value in before.items():
            server.probe.config_set(name, value)


def dashed(name: str) -> str:
    return name.replace("_", "-")


def store_only(app: Celery, timeout: float = 2) -> Diagnosis:
    return diagnose(app, timeout=timeout, workers=False)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, []),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": "500mb"}, ["GD206"]),
        ({"client_output_buffer_limit": "pubsub 1mb 512kb 60"}, ["GD207"]),
        ({"timeout": 3}, ["GD208"]),
    ],
)
def test_a_redis_that_is_set_up_badly(
    make: Callable[..., Celery], results: RedisServer, options: dict[str, Any], found: list[str]
) -> None:
    app = make(result_drainer="auto")
    with set_to(results, **options):
        assert ids(store_only(app)) == found


def test_a_redis_with_few_connections_left(
    make: Callable[..., Celery], results: RedisServer
) -> None:
    app = make(result_drainer="auto")
    with ExitStack() as held:
        for _ in range(50):
            held.enter_context(closing(socket.create_connection(("127.0.0.1", results.port))))
        with set_to(results, maxclients=60):
            assert ids(store_only(app)) == ["GD209"]


def test_no_redis(make: Callable[..., Celery]) -> None:
    app = make(results=f"redis://:secret@127.0.0.1:{free_port()}/0")
    diagnosis = store_only(app)
    assert ids(diagnosis) == ["GD201"]
    assert "secret" not in json.dumps(diagnosis.as_dict())


def test_a_redis_that_says_nothing(make: Callable[..., Celery], results: RedisServer) -> None:
    with proxied(results.port) as proxy:
        proxy.swallow()
        app = make(results=results.url("web").replace(str(results.port), str(proxy.port)))
        assert ids(store_only(app, timeout=0.3)) == ["GD201"]
        proxy.pass_on()


def test_a_wrong_password(make: Callable[..., Celery], results: RedisServer) -> None:
    app = make(results=f"redis://nobody:wrong@127.0.0.1:{results.port}/0")
    assert ids(store_only(app)) == ["GD202"]


@pytest.mark.parametrize(
    ("rights", "found"),
    [
        ("-subscribe", ["GD203"]),
        ("-get", ["GD203"]),
        ("-mget", ["GD204"]),
        ("-ping", ["GD204"]),
        ("-info -config -publish", []),
    ],
)
def test_a_user_with_few_rights(
    make: Callable[..., Celery], results: RedisServer, rights: str, found: list[str]
) -> None:
    granted = ["on", ">pw", "~*", "&*", "+@all", *rights.split()]
    results.probe.execute_command("ACL", "SETUSER", "few", *granted)
    app = make(results=f"redis://few:pw@127.0.0.1:{results.port}/0")
    diagnosis = store_only(app)
    assert ids(diagnosis) == found
    assert not found or rights[1:].upper() in text(diagnosis, found[0])


# -- other stores, and brokers


def test_no_broker(make: Callable[..., Celery]) -> None:
    app = make(broker=f"amqp://guest:secret@127.0.0.1:{free_port()}//")
    diagnosis = store_only(app)
    assert ids(diagnosis) == ["GD213"]
    assert "secret" not in json.dumps(diagnosis.as_dict())


def test_rabbitmq(rabbit: RabbitServer) -> None:
    app = make_app(rabbit.url(), "rpc://", result_drainer="auto")
    assert ids(store_only(app)) == []
    app.close()


def test_messages_of_redis(broker: RedisServer) -> None:
    app = make_app(broker.url(database=11), "rpc://", result_drainer="auto")
    assert ids(store_only(app)) == []
    app.close()


def test_rabbitmq_that_is_away() -> None:
    app = make_app(f"amqp://127.0.0.1:{free_port()}//", "rpc://", result_drainer="auto")
    assert ids(store_only(app)) == ["GD201", "GD213"]


def test_a_user_of_rabbitmq_who_may_not_declare(rabbit: RabbitServer) -> None:
    rabbit.control("add_user", "few", "pw")
    rabbit.control("set_permissions", "few", "^$", ".*", ".*")
    url = rabbit.url().replace("guest:guest", "few:pw")
    app = make_app(url, "rpc://", result_drainer="auto")
    diagnosis = store_only(app)
    assert ids(diagnosis) == ["GD203"]
    assert "cannot declare a queue" in text(diagnosis, "GD203")
    app.close()


def test_a_database(tmp_path: Path) -> None:
    app = make_app("memory://", f"db+sqlite:///{tmp_path}/results.db", result_drainer="auto")
    diagnosis = store_only(app)
    assert ids(diagnosis) == []
    assert diagnosis.figures["look"] > 0


def test_a_memcached_that_is_away() -> None:
    app = make_app(
        "memory://", f"cache+pymemcache://127.0.0.1:{free_port()}/", result_drainer="auto"
    )
    assert ids(store_only(app)) == ["GD211"]


# -- workers


def test_no_worker(make: Callable[..., Celery], broker: RedisServer) -> None:
    assert ids(diagnose(make(broker=broker.url(database=9)), timeout=0.5)) == ["GD301"]


def test_all_is_well(make: Callable[..., Celery], worker: Worker) -> None:
    diagnosis = diagnose(make(), timeout=1)
    assert ids(diagnosis) == []
    assert ids(diagnosis, "info") == ["GD401"]
    figures = diagnosis.figures
    assert figures["workers"] == 1
    assert 0 < figures["ping_min"] <= figures["ping_median"] <= figures["ping_max"]
    assert 0 < figures["sent"] < figures["delivered"]


def test_a_worker_that_stores_in_another_database(
    make: Callable[..., Celery], worker: Worker, results: RedisServer
) -> None:
    """Its message comes all the same, as messages know no database."""
    found = ids(diagnose(make(results=results.url("web", database=3)), timeout=1))
    assert found[0] == "GD302"
    # Unless it came before anybody listened.
    assert found[1] in ("GD303", "GD308")


def test_a_worker_that_stores_under_other_names(
    make: Callable[..., Celery], worker: Worker
) -> None:
    app = make(result_backend_transport_options={"global_keyprefix": "shop"})
    assert ids(diagnose(app, timeout=0.5)) == ["GD306", "GD308"]


def test_a_worker_that_writes_what_is_not_accepted(
    make: Callable[..., Celery], worker: Worker
) -> None:
    found = ids(diagnose(make(result_accept_content=["yaml"]), timeout=1))
    assert found[0] == "GD305"


def test_a_queue_that_no_worker_consumes(make: Callable[..., Celery], worker: Worker) -> None:
    assert ids(diagnose(make(task_default_queue="others"), timeout=0.5)) == ["GD308"]


# -- the command

SHOP = """
from celery import Celery
app = Celery("shop", broker={broker!r}, backend={results!r})
app.conf.update({conf!r})
"""

#: What a web server serves, and whether that has the app.
WEB = """
from shop import app

def application(environ, start_response):
    start_response("200 OK", [])
    return [b""]
"""

GUNICORN = "{} -m gunicorn --bind 127.0.0.1:0 {}"


@pytest.fixture
def doctor(
    tmp_path: Path, broker: RedisServer, results: RedisServer
) -> Callable[..., tuple[int, str]]:
    """Run the command for an app with such a configuration; return its status and output."""

    def run(*arguments: str, **conf: Any) -> tuple[int, str]:
        script = SHOP.format(broker=broker.url(), results=results.url("command"), conf=conf)
        (tmp_path / "shop.py").write_text(script)
        (tmp_path / "web.py").write_text(WEB)
        process = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "shop", "green-drain", *arguments],
            cwd=tmp_path,
            env=UNMEASURED,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in process.stderr, process.stderr
        return process.returncode, process.stdout

    return run


def test_one_line_where_all_is_well(doctor: Callable[..., tuple[int, str]], worker: Worker) -> None:
    status, output = doctor("doctor", "--timeout", "1", result_drainer="gevent")
    assert (status, output.count("\n")) == (0, 1), output
    assert "All is well: results from redis://127.0.0.1" in output
    assert "1 worker, a task there and back in" in output


def test_an_error(doctor: Callable[..., tuple[int, str]]) -> None:
    status, output = doctor("doctor", results_drainer="gevent")
    assert status == 1
    assert "GD001 error: the package is off" in output
    assert "GD003 warning: a setting that is nearly ours" in output


def test_levels_and_json(doctor: Callable[..., tuple[int, str]]) -> None:
    arguments = ("doctor", "--json", "--no-workers")
    conf = {"result_drainer": "auto", "result_expires": 5}
    status, output = doctor(*arguments, "--fail-level", "warning", **conf)
    finding, _ = json.loads(output)["findings"]
    assert (status, finding["id"], finding["level"]) == (1, "GD007", "warning")


def test_explain(doctor: Callable[..., tuple[int, str]]) -> None:
    status, output = doctor("explain", "gd201")
    assert status == 0
    assert RULES["GD201"].remedy in output


def test_a_web_server_that_patches(doctor: Callable[..., tuple[int, str]]) -> None:
    command = GUNICORN.format(sys.executable, "-k gevent -w 2 web:application")
    status, output = doctor("doctor", "--no-workers", "--exec", command, result_drainer="gevent")
    assert (status, output.count("\n")) == (0, 1)
    assert "web server: 2 processes, patched by gevent" in output


@pytest.mark.parametrize(
    ("server", "found", "says"),
    [
        ("-k sync web:application", "GD402", "it is patched by nothing"),
        ("nowhere:application", "GD403", "It has ended with status 3"),
    ],
)
def test_a_web_server_that_is_not_as_it_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, found: str, says: str
) -> None:
    (tmp_path / "shop.py").write_text(
        SHOP.format(broker="memory://", results="rpc://", conf={"result_drainer": "gevent"})
    )
    (tmp_path / "web.py").write_text(WEB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    app = importlib.import_module("shop").app
    (finding,) = check_command(app, GUNICORN.format(sys.executable, server), {})
    assert finding.id == found
    assert says in finding.text
    monkeypatch.delitem(sys.modules, "shop")


def test_a_uwsgi_whose_workers_are_not_seen(make: Callable[..., Celery]) -> None:
    """It is not installed here, and named all the same."""
    command = "uwsgi --gevent 20 --gevent-monkey-patch --module web"
    diagnosis = diagnose(make(), workers=False, command=command)
    assert ids(diagnosis, "info") == ["GD404", "GD403"]
    assert ids(diagnose(make(), workers=False, command=f"{command} --lazy-apps")) == ["GD403"]


def test_each_rule_has_all_that_it_needs() -> None:
    for id_, rule in RULES.items():
        assert rule.level in LEVELS
        assert id_.startswith("GD")
        assert not rule.title.endswith(".")
        assert rule.remedy.endswith(".")


def test_the_docs_list_all_findings() -> None:
    page = (Path(__file__).parent.parent / "docs" / "doctor.rst").read_text()
    rows = ((id_, rule.level, rule.title) for id_, rule in RULES.items())
    assert "".join("   * - {}\n     - {}\n     - {}\n".format(*row) for row in rows) in page
