"""The doctor finds each mistake that is made here for real."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner

from celery_green_drain import DrainerWarning
from celery_green_drain.inspection import checks
from celery_green_drain.inspection.command import _show, green_drain
from celery_green_drain.inspection.doctor import Diagnosis, diagnose
from celery_green_drain.inspection.executed import check_command
from celery_green_drain.inspection.findings import LEVELS, RULES

from ..rabbitmq import RabbitServer
from ..servers import UNMEASURED, RedisServer, Worker, free_port
from ..stores import PostgresServer
from ..tasks import make_app


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


def test_nothing_is_wrong() -> None:
    assert ids(alone()) == []


# -- packages


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


def store_only(app: Celery, timeout: float = 2) -> Diagnosis:
    return diagnose(app, timeout=timeout, workers=False)


def test_a_user_who_may_not_ask_how_the_server_is_set_up(
    make: Callable[..., Celery], results: RedisServer
) -> None:
    granted = ["on", ">pw", "~*", "&*", "+@all", "-info", "-config", "-publish"]
    results.probe.execute_command("ACL", "SETUSER", "few", *granted)
    app = make(results=f"redis://few:pw@127.0.0.1:{results.port}/0")
    assert ids(store_only(app)) == []


@pytest.mark.parametrize("key", ["broker", "results"])
def test_passwords_are_not_told(make: Callable[..., Celery], key: str) -> None:
    url = {
        "broker": "amqp://guest:secret@127.0.0.1:{}//",
        "results": "redis://:secret@127.0.0.1:{}/0",
    }
    diagnosis = store_only(make(**{key: url[key].format(free_port())}))
    assert ids(diagnosis) == [{"broker": "GD213", "results": "GD201"}[key]]
    assert "secret" not in json.dumps(diagnosis.as_dict())


# -- other stores, and brokers


def test_messages_of_redis(broker: RedisServer) -> None:
    app = make_app(broker.url(database=11), "rpc://", result_drainer="auto")
    assert ids(store_only(app)) == []
    app.close()


def test_a_database(tmp_path: Path) -> None:
    app = make_app("memory://", f"db+sqlite:///{tmp_path}/results.db", result_drainer="auto")
    diagnosis = store_only(app)
    assert ids(diagnosis) == []
    assert "GD215" in ids(diagnosis, "info")
    assert diagnosis.figures["look"] > 0


# -- workers


def test_all_is_well(
    make: Callable[..., Celery], worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    diagnosis = diagnose(make(), timeout=1)
    assert ids(diagnosis) == []
    assert ids(diagnosis, "info") == ["GD401"]
    figures = diagnosis.figures
    assert figures["workers"] == 1
    assert 0 < figures["ping_min"] <= figures["ping_median"] <= figures["ping_max"]
    assert 0 < figures["sent"] < figures["stored"] < figures["delivered"]
    _show(diagnosis, "info", verbose=True)
    shown = capsys.readouterr().out
    page = (Path(__file__).parents[2] / "docs" / "doctor.rst").read_text()
    _, printed = re.findall(r"::\n\n((?:    .*\n|\n)+)", page)[:2]
    assert without_numbers(printed) == without_numbers(shown)


def without_numbers(text: str) -> str:
    text = re.sub(r"redis://\S+", "<address>", " ".join(text.split()))
    return re.sub(r"\d+(\.\d+)?", "<n>", text)


def test_all_is_well_with_rabbitmq(rabbit: RabbitServer, rabbit_worker: Worker) -> None:
    app = make_app(rabbit.url(), "rpc://", result_drainer="auto")
    diagnosis = diagnose(app, timeout=1)
    assert ids(diagnosis) == []
    assert diagnosis.figures["workers"] == 1
    app.close()


def test_all_is_well_with_a_database_and_a_green_worker(broker: RedisServer) -> None:
    server = PostgresServer()
    url = broker.url(database=10)
    worker = Worker(url, server.url("worker"), pool="gevent", drainer="gevent")
    app = make_app(url, server.url("web"), result_drainer="auto")
    diagnosis = diagnose(app, timeout=1)
    assert ids(diagnosis) == []
    assert diagnosis.figures["delivered"] > 0
    app.close()
    worker.end()
    server.end()


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


def run_in(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module of Python in *folder*."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**UNMEASURED, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def doctor(
    tmp_path: Path, broker: RedisServer, results: RedisServer
) -> Callable[..., tuple[int, str]]:
    """Run the command for an app with such a configuration; return its status and output."""

    def run(*arguments: str, **conf: Any) -> tuple[int, str]:
        script = SHOP.format(broker=broker.url(), results=results.url("command"), conf=conf)
        (tmp_path / "shop.py").write_text(script)
        (tmp_path / "web.py").write_text(WEB)
        process = run_in(tmp_path, "celery", "-A", "shop", "green-drain", *arguments)
        assert "Traceback" not in process.stderr, process.stderr
        return process.returncode, process.stdout

    return run


def test_one_line_where_all_is_well(doctor: Callable[..., tuple[int, str]], worker: Worker) -> None:
    status, output = doctor("doctor", "--timeout", "1", result_drainer="gevent")
    assert (status, output.count("\n")) == (0, 1), output
    assert "All is well: results from redis://127.0.0.1" in output
    assert "1 worker, a task there and back in" in output


DJANGO = """
import os
from celery import Celery
os.environ["DJANGO_SETTINGS_MODULE"] = "shop_settings"
app = Celery("shop", broker="memory://")
app.config_from_object("django.conf:settings", namespace="CELERY")
"""

DJANGO_SETTINGS = """
SECRET_KEY = "secret"
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {database!r}}}}}
INSTALLED_APPS = {installed!r}
CELERY_RESULT_BACKEND = {backend!r}
CELERY_RESULT_DRAINER = "auto"
"""


@pytest.mark.parametrize(
    ("backend", "installed", "told"),
    [
        ("green+django-db", "django_celery_results", "All is well: results from green+django-db"),
        ("django-db", "django_celery_results", "GD005"),
        ("green+django-db", "no_such_app", "Django cannot be set up: ModuleNotFoundError"),
    ],
)
def test_in_a_django_project(tmp_path: Path, backend: str, installed: str, told: str) -> None:
    """It loads the models, as the web server does: Celery's command line does not."""
    settings = DJANGO_SETTINGS.format(
        database=str(tmp_path / "db.sqlite3"), installed=[installed], backend=backend
    )
    (tmp_path / "shop_settings.py").write_text(settings)
    (tmp_path / "shop.py").write_text(DJANGO)

    run_in(tmp_path, "django", "migrate", DJANGO_SETTINGS_MODULE="shop_settings")
    arguments = "-A", "shop", "green-drain", "doctor", "--no-workers"
    process = run_in(tmp_path, "celery", *arguments, DJANGO_SETTINGS_MODULE="shop_settings")
    output = process.stdout + process.stderr
    assert told in output
    assert "Traceback" not in output


def in_process(app: Celery, *arguments: str) -> tuple[int, str]:
    """The same in this process, which costs less."""
    outcome = CliRunner().invoke(green_drain, arguments, obj=SimpleNamespace(app=app))
    return outcome.exit_code, outcome.output


def test_an_error() -> None:
    app = make_app("memory://", "rpc://", results_drainer="gevent")
    status, output = in_process(app, "doctor")
    assert status == 1
    assert "GD001 error: the package is off" in output
    assert "GD003 warning: a setting that is nearly ours" in output


def test_levels_and_json(make: Callable[..., Celery]) -> None:
    app = make(result_drainer="auto", result_expires=5)
    arguments = ("doctor", "--json", "--no-workers")
    status, output = in_process(app, *arguments)
    assert status == 0
    status, output = in_process(app, *arguments, "--fail-level", "warning")
    finding, _ = json.loads(output)["findings"]
    assert (status, finding["id"], finding["level"]) == (1, "GD007", "warning")


def test_explain(make: Callable[..., Celery]) -> None:
    status, output = in_process(make(), "explain", "gd201")
    assert status == 0
    assert RULES["GD201"].remedy in output


def test_a_web_server_that_patches(doctor: Callable[..., tuple[int, str]]) -> None:
    command = GUNICORN.format(sys.executable, "-k gevent -w 2 web:application")
    status, output = doctor("doctor", "--no-workers", "--exec", command, result_drainer="gevent")
    assert (status, output.count("\n")) == (0, 1)
    assert "web server: 2 processes, patched by gevent" in output


def test_a_web_server_that_does_not_start(tmp_path: Path) -> None:
    command = GUNICORN.format(sys.executable, "nowhere:application")
    (finding,) = check_command(Celery(set_as_current=False), command, {})
    assert finding.id == "GD403"
    assert "It has ended with status 3" in finding.text


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
    page = (Path(__file__).parents[2] / "docs" / "doctor.rst").read_text()
    rows = ((id_, rule.level, rule.title) for id_, rule in RULES.items())
    assert "".join("   * - {}\n     - {}\n     - {}\n".format(*row) for row in rows) in page
