"""``result_drainer``: how it is given, what it chooses, and what is without it."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import threading
import types
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from celery import Celery, uuid
from celery.app.backends import by_name
from celery.app.defaults import DEFAULTS
from celery.backends import asynchronous
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.exceptions import ImproperlyConfigured
from celery.loaders.app import AppLoader
from django.conf import LazySettings

import celery_green_drain
from celery_green_drain import Drainer, DrainerWarning, ThreadDrainer, drainers
from celery_green_drain.backends.redis import RedisBackend as DrainedRedisBackend
from celery_green_drain.backends.redis import SentinelBackend as DrainedSentinelBackend
from celery_green_drain.drainers import patching
from celery_green_drain.drainers.slots import PATIENCE, Slots
from celery_green_drain.settings import Settings

from .green import DRAINER, GREEN, MODE, crowd, wait_until
from .program import command
from .servers import UNMEASURED, RedisServer
from .tasks import make_app


def ours(app: Celery) -> bool:
    return isinstance(app.backend, DrainedRedisBackend)


def as_django_does(namespace: str = "CELERY", **settings: Any) -> Celery:
    """An app with *settings* out of a module like Django's."""
    named = {f"{namespace}_{key}": value for key, value in settings.items()}
    source = types.SimpleNamespace(**{f"{namespace}_RESULT_BACKEND": "redis://", **named})
    app = Celery()
    app.config_from_object(source, namespace=namespace)
    return app


# -- every way that Celery takes its configuration


def test_by_update() -> None:
    app = Celery(backend="redis://")
    app.conf.update(result_drainer=DRAINER)
    assert ours(app)


def test_by_attribute() -> None:
    app = Celery(backend="redis://")
    app.conf.result_drainer = DRAINER
    assert ours(app)


def test_by_dict() -> None:
    app = Celery()
    app.config_from_object({"result_backend": "redis://", "result_drainer": DRAINER})
    assert ours(app)


def test_by_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("configuration_of_the_test")
    module.result_backend = "redis://"
    module.result_drainer = DRAINER
    module.result_drainer_heartbeat = 3
    monkeypatch.setitem(sys.modules, module.__name__, module)
    app = Celery()
    app.config_from_object(module.__name__)
    assert ours(app)
    assert app.backend.drainer_settings.heartbeat == 3


@pytest.mark.parametrize("namespace", ["CELERY", "RESULTS_OF"])
def test_by_namespace_as_django_does(namespace: str) -> None:
    app = as_django_does(namespace, RESULT_DRAINER=DRAINER, RESULT_DRAINER_RETRY_MAX=7)
    assert ours(app)
    assert app.backend.drainer_settings.retry_max == 7


def test_by_old_upper_case() -> None:
    app = Celery()
    app.config_from_object({"CELERY_RESULT_BACKEND": "redis://", "CELERY_RESULT_DRAINER": DRAINER})
    assert ours(app)


def test_the_latest_wins() -> None:
    app = Celery()
    app.config_from_object({"result_backend": "redis://", "result_drainer": "nonsense"})
    app.conf.result_drainer = DRAINER
    assert ours(app)


@pytest.mark.parametrize(
    ("url", "cls"),
    [
        ("redis://", DrainedRedisBackend),
        ("rediss://?ssl_cert_reqs=required", DrainedRedisBackend),
        ("redis+socket:///redis.sock", DrainedRedisBackend),
        ("sentinel://127.0.0.1:26379", DrainedSentinelBackend),
    ],
)
def test_each_kind_of_redis(url: str, cls: type) -> None:
    app = Celery(backend=url)
    app.conf.result_drainer = DRAINER
    assert type(app.backend) is cls
    assert app.backend.thread_safe
    assert app.backend is app.backend


def test_sentinel_waits_for_a_free_connection() -> None:
    app = Celery(backend="sentinel://127.0.0.1:26379")
    app.conf.update(
        result_drainer=DRAINER,
        redis_max_connections=3,
        result_backend_transport_options={"master_name": "main"},
    )
    pool = app.backend.client.connection_pool
    assert (pool.max_connections, pool.timeout) == (3, PATIENCE)
    assert isinstance(pool.pool, Slots)
    assert pool.service_name == "main"


def test_many_greenlets_make_one_client(make: Callable[..., Celery]) -> None:
    """Though each switches in the middle of making it."""
    app = make(redis_max_connections=3)
    backend, began = app.backend, threading.Barrier(20)
    create = backend._create_client

    def create_slowly(**params: Any) -> Any:
        began.wait(20)
        return create(**params)

    backend._create_client = create_slowly
    assert len(set(map(id, crowd(20, lambda _: backend.client)))) == 1


# -- without it


@pytest.mark.parametrize("unset", [{}, {"result_drainer": None}, {"result_drainer": ""}])
@pytest.mark.parametrize(
    ("url", "cls"),
    [
        ("redis://", RedisBackend),
        ("rediss://?ssl_cert_reqs=required", RedisBackend),
        ("sentinel://127.0.0.1:26379", SentinelBackend),
    ],
)
def test_unset_is_stock(url: str, cls: type, unset: dict[str, Any]) -> None:
    app = Celery(backend=url)
    app.conf.update(unset)
    assert type(app.backend) is cls
    assert type(app.backend.result_consumer) is cls.ResultConsumer  # type: ignore[attr-defined]
    assert not app.backend.thread_safe


@pytest.mark.parametrize("name", ["stock", "bare", "looked_at"])
def test_in_a_fresh_process(name: str) -> None:
    # Coverage would import the library that it is to follow.
    python, *program = command(name)
    strict = (python, "-W", "error", *program)
    process = subprocess.run(strict, capture_output=True, text=True, timeout=60, env=UNMEASURED)
    assert (process.returncode, process.stdout + process.stderr) == (0, "")


def test_public_names() -> None:
    for name in celery_green_drain.__all__:
        assert getattr(celery_green_drain, name).__name__ == name
        assert name in dir(celery_green_drain)
    for name in (f"{library.title()}Drainer" for library in ("gevent", "eventlet", "thread")):
        assert getattr(celery_green_drain, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_here"):
        celery_green_drain.nothing_here  # noqa: B018


def test_celery_finds_the_factories() -> None:
    assert by_name("redis").__module__ == "celery_green_drain.backends"


# -- what is refused


@pytest.mark.parametrize(
    "value", ["gevnet", "no.such.module", "os.path", 3, ["gevent"], object, print]
)
def test_a_wrong_drainer(value: Any) -> None:
    app = Celery(backend="redis://")
    app.conf.result_drainer = value
    with pytest.raises(ImproperlyConfigured) as caught:
        app.backend  # noqa: B018
    message = str(caught.value)
    assert repr(value) in message
    for name in ("'gevent'", "'eventlet'", "'thread'", "'auto'"):
        assert name in message


@pytest.mark.parametrize(
    ("value", "meant"),
    [("Gevent", "gevent"), ("gevnt", "gevent"), ("AUTO", "auto"), (True, "auto")],
)
def test_a_drainer_that_is_nearly_one(value: Any, meant: str) -> None:
    app = as_django_does(RESULT_DRAINER=value)
    text = f"^CELERY_RESULT_DRAINER = {value!r} is no drainer. Did you mean {meant!r}"
    with pytest.raises(ImproperlyConfigured, match=text):
        app.backend  # noqa: B018


def test_a_drainer_of_the_current_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "own_drainers.py").write_text(
        "from celery_green_drain import Drainer\nclass Own(Drainer): name = 'own'\n"
    )
    (tmp_path / "failing_drainers.py").write_text("import no_such_library\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    drainers.check("own_drainers.Own")
    with pytest.raises(ImproperlyConfigured, match=r"cannot be imported.*no_such_library"):
        drainers.check("failing_drainers.Own")
    with pytest.raises(ImproperlyConfigured, match="is no drainer"):
        drainers.check("own_drainers:Other")


def test_a_misspelt_setting() -> None:
    app = Celery(backend="redis://")
    app.conf.update(result_drainer=DRAINER, result_drainer_hartbeat=3)
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'result_drainer_heartbeat'"):
        app.backend  # noqa: B018


def test_a_misspelt_setting_of_django() -> None:
    app = as_django_does(RESULT_DRAINER_HARTBEAT=3)
    text = "'CELERY_RESULT_DRAINER_HARTBEAT'. Did you mean 'CELERY_RESULT_DRAINER_HEARTBEAT'"
    with pytest.raises(ImproperlyConfigured, match=text):
        app.backend  # noqa: B018


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("results_drainer", "result_drainer"),
        ("result_drain", "result_drainer"),
        ("drainer", "result_drainer"),
        ("drainer_heartbeat", "result_drainer_heartbeat"),
        ("CELERY_DRAINER", "CELERY_RESULT_DRAINER"),
        ("CELERY_RESULTS_DRAINER", "CELERY_RESULT_DRAINER"),
    ],
)
def test_a_name_that_comes_near_one_of_ours(
    unsaid: None, name: str, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    apps = [Celery(backend="redis://") for _ in range(2)]
    for app in apps:
        app.conf.update({name: "gevent"})
    with pytest.warns(DrainerWarning, match=f"'{name}' is read by nobody.*write '{meant}'") as seen:
        assert type(apps[0].backend) is RedisBackend
    assert {each.filename for each in seen if each.category is DrainerWarning} == {__file__}
    assert meant in caplog.text
    assert type(apps[1].backend) is RedisBackend  # with no second warning, which would be an error


@pytest.mark.parametrize("name", ["LOG_DRAINER_URL", "shop_drainer", "drainer_pool_size"])
def test_a_name_of_somebody_else(name: str) -> None:
    app = Celery(backend="redis://")
    app.conf.update({name: "gevent"})
    assert type(app.backend) is RedisBackend  # without a warning, which would be an error


def test_a_name_in_lower_case_in_django(
    unsaid: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "shop_settings.py").write_text(
        "celery_result_drainer = 'auto'\nCELERY_RESULT_BACKEND = 'redis://'\nTIME_ZONE = None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = LazySettings()
    monkeypatch.setitem(os.environ, "DJANGO_SETTINGS_MODULE", "shop_settings")
    app = Celery()
    app.config_from_object(settings, namespace="CELERY")
    with pytest.warns(DrainerWarning, match="upper case only.*'CELERY_RESULT_DRAINER'"):
        assert type(app.backend) is RedisBackend


def test_no_name_of_celery_comes_near_one_of_ours() -> None:
    assert Settings.of(dict.fromkeys(DEFAULTS, 1)) == Settings()


class ShopBackend(RedisBackend):
    """Has keys of its own."""

    task_keyprefix = "shop-"


class ShopDrainedBackend(DrainedRedisBackend):
    """The same, of ours."""

    task_keyprefix = "shop-"


def with_loader(url: str, backend: str) -> Celery:
    class Loader(AppLoader):
        override_backends: ClassVar[dict[str, str]] = {"redis": f"{__name__}:{backend}"}

    app = Celery(backend=url, loader=Loader, set_as_current=False)
    app.conf.result_drainer = DRAINER
    return app


def test_a_backend_of_the_loader_is_used_as_it_is(results: RedisServer, unsaid: None) -> None:
    app = with_loader(results.url("web"), "ShopBackend")
    with pytest.warns(DrainerWarning, match="no drainer of this package serves it"):
        assert type(app.backend) is ShopBackend
    app.backend.store_result("one", 1, "SUCCESS")
    assert app.backend.client.exists("shop-one")
    app.backend.client.connection_pool.disconnect()
    kept: list[object] = []
    thread = threading.Thread(target=lambda: kept.append(app.backend))
    thread.start()
    thread.join()
    assert kept != [app.backend]  # as Celery has it


@pytest.mark.parametrize("backend", ["ShopDrainedBackend", "DrainedRedisBackend"])
def test_a_backend_of_the_loader_that_is_ours(results: RedisServer, backend: str) -> None:
    app = with_loader(results.url("web"), backend)
    assert type(app.backend) is globals()[backend]
    app.backend.store_result("two", 2, "SUCCESS")
    assert app.AsyncResult("two").get(timeout=20) == 2
    app.backend.result_consumer.stop()
    app.backend.client.connection_pool.disconnect()


def test_without_redis_py() -> None:
    process = subprocess.run(
        command("without_redis"), capture_output=True, text=True, timeout=60, env=UNMEASURED
    )
    last = process.stderr.splitlines()[-1]
    assert "pip install 'celery-green-drain[redis]'" in last
    assert "secret" not in process.stderr.replace("redis://:secret@localhost", "")


@pytest.mark.parametrize("value", [0, -1, "soon", True, float("inf"), float("nan"), None])
def test_a_wrong_number_of_seconds(value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"result_drainer_heartbeat = .*seconds"):
        Settings.of({"result_drainer_heartbeat": value})


@pytest.mark.parametrize("value", [0, 1, "yes", "gevent", []])
def test_a_wrong_choice(value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"result_drainer_threads = .*True, False"):
        Settings.of({"result_drainer_threads": value})


def test_pauses_that_contradict_each_other() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"poll_min = 2 .*poll_max = 0\.5"):
        Settings.of({"result_drainer_poll_min": 2})
    assert Settings.of({"result_drainer_poll_min": 2, "result_drainer_poll_max": 2}).poll_min == 2


def test_defaults() -> None:
    assert Settings.of({}) == Settings(None, 10.0, 30.0, 60.0, 10_000, 0.05, 0.5, None)


# -- which drainer serves


def chosen(app: Celery) -> type:
    return type(app.backend.result_consumer.drainer)


def test_the_drainer_of_this_process(app: Celery, store: Callable[..., str]) -> None:
    assert app.AsyncResult(store(1)).get(timeout=5) == 1
    assert chosen(app).name == DRAINER  # type: ignore[attr-defined]
    assert asynchronous.drainers[DRAINER] is chosen(app)
    assert app.backend.result_consumer.statistics().drainer == chosen(app).__name__


def test_auto_is_what_patched_the_process(make: Callable[..., Celery]) -> None:
    assert chosen(make(result_drainer="auto")).name == DRAINER  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted({"gevent", "eventlet"} - {MODE}))
def test_another_library_has_patched_or_none(
    make: Callable[..., Celery], name: str, unsaid: None, caplog: pytest.LogCaptureFixture
) -> None:
    app, again = make(result_drainer=name), make(result_drainer=name)
    task_id = uuid()
    make().backend.store_result(task_id, 1, "SUCCESS")  # by another one, as that reads a state
    remedy = f"patched by {MODE}: set '{MODE}', or 'auto'" if GREEN else f"not patched by {name}"
    with pytest.warns(DrainerWarning, match=f"result_drainer = '{name}', .*{remedy}") as seen:
        assert app.AsyncResult(task_id).get(timeout=5) == 1
    assert {each.filename for each in seen if each.category is DrainerWarning} == {__file__}
    assert remedy in caplog.text
    assert chosen(app) is ThreadDrainer
    assert chosen(again) is ThreadDrainer  # with no second warning, which would be an error here


GEVENT = "from gevent import monkey; monkey.patch_all({})"
EVENTLET = "import eventlet; eventlet.monkey_patch({})"


@pytest.mark.skipif(GREEN, reason="processes of their own, each patched in another way")
@pytest.mark.parametrize(
    ("patch", "wanted", "expected"),
    [
        (GEVENT.format(""), "gevent", r"GeventDrainer \['gevent'\]"),
        (GEVENT.format(""), "eventlet", r"patched by gevent: set.*\nThreadDrainer \['gevent'\]"),
        ("", "eventlet", r"not patched by eventlet.*'auto'.*\nThreadDrainer \[\]"),
        (GEVENT.format("thread=False"), "auto", r"but not threading:.*patch_all.*\nGeventDr"),
        (GEVENT.format("queue=False"), "auto", r"but not queue:.*patch_all.*\nGeventDr"),
        (EVENTLET.format("thread=False"), "auto", r"not threading and queue:.*\nEventletDr"),
        (f"{GEVENT.format('')}; {EVENTLET.format('')}", "gevent", "patched by gevent and eventlet"),
    ],
)
def test_how_the_process_is_patched(patch: str, wanted: str, expected: str) -> None:
    python, *program = command("patched", patch, wanted)
    silent = (python, "-W", "ignore", *program)
    process = subprocess.run(silent, capture_output=True, text=True, timeout=60, env=UNMEASURED)
    assert process.returncode == 0, process.stderr
    assert re.match(f"(This process is |.*){expected}", process.stdout), process.stdout


def test_children_say_it_once(unsaid: None) -> None:
    def a_child_says_it() -> bool:
        child = os.fork()
        if not child:
            warnings.simplefilter("error")
            try:
                drainers.choose(min({"gevent", "eventlet"} - {MODE}))
            except DrainerWarning:
                os._exit(7)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

    assert [a_child_says_it() for _ in range(3)] == [True, False, False]


def test_a_library_that_is_not_installed(
    make: Callable[..., Celery], unsaid: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(drainers.OURS, "absent", "AbsentDrainer")
    monkeypatch.setitem(patching.LIBRARIES, "absent", patching.LIBRARIES["gevent"])
    monkeypatch.setattr(patching, "is_patched", lambda library, module="socket": False)
    app = make(result_drainer="absent")
    with pytest.warns(DrainerWarning, match=r"pip install 'celery-green-drain\[absent\]'"):
        assert chosen(app) is ThreadDrainer


class OwnDrainer(drainers.ours(DRAINER)):  # type: ignore[misc]
    """As a user would write one."""

    name = "own"


@pytest.mark.parametrize("how", ["class", "path", "registry"])
def test_a_drainer_of_ones_own(
    make: Callable[..., Celery], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(asynchronous.drainers, "own", OwnDrainer)
    value = {"class": OwnDrainer, "path": f"{__name__}.OwnDrainer", "registry": "own"}[how]
    app = make(result_drainer=value)
    task_id = uuid()
    app.backend.store_result(task_id, 1, "SUCCESS")
    assert app.AsyncResult(task_id).get(timeout=5) == 1
    assert chosen(app).__name__ == "OwnDrainer"


STOCKS = {
    "gevent": asynchronous.geventDrainer,
    "eventlet": asynchronous.eventletDrainer,
    "unpatched": asynchronous.Drainer,
}


@pytest.mark.parametrize("cls", {asynchronous.Drainer, STOCKS[MODE]})
def test_a_drainer_of_celerys(make: Callable[..., Celery], cls: type, results: RedisServer) -> None:
    app = make(result_drainer=cls)
    ids = [uuid() for _ in range(10)]
    threads = [
        threading.Thread(target=lambda task_id=task_id: app.AsyncResult(task_id).get(timeout=20))
        for task_id in ids
    ]
    calls: list[object] = []
    app.AsyncResult(ids[0]).then(calls.append)
    for thread in threads:
        thread.start()
    for task_id in ids:
        app.backend.store_result(task_id, 1, "SUCCESS")
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert len(calls) == 1
    assert len(results.clients(sub="0")) <= 3
    with pytest.raises(Exception, match="timed out"):
        app.AsyncResult(uuid()).get(timeout=0.2)


def test_a_drainer_that_does_not_stop(
    make: Callable[..., Celery], caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()

    class Endless(asynchronous.Drainer):  # type: ignore[misc]
        def stop(self) -> None:
            release.wait(60)

    app = make(result_drainer=Endless)
    app.backend.store_result("endless", 1, "SUCCESS")
    assert app.AsyncResult("endless").get(timeout=5) == 1
    app.backend.result_consumer.drainer.stop(timeout=0.1)
    release.set()
    assert "Endless has not stopped within 0.1 s" in caplog.text


class InThreads(asynchronous.greenletDrainer):  # type: ignore[misc]
    """Celery's loop, without a green library."""

    def spawn(self, function: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=function, daemon=True)
        thread.start()
        return thread


def test_a_loop_of_celerys_ends_with_its_app(results: RedisServer, broker: RedisServer) -> None:
    ended = threading.Event()

    class Told({**STOCKS, "unpatched": InThreads}[MODE]):  # type: ignore[misc]
        def run(self) -> None:
            try:
                super().run()
            finally:  # also where Celery's own loop dies of the request to end
                ended.set()

    with make_app(broker.url(), results.url("web"), result_drainer=Told) as app:
        app.backend.store_result("looped", 1, "SUCCESS")
        assert app.AsyncResult("looped").get(timeout=5) == 1
        gone = weakref.ref(app.backend)
        del app
    wait_until(lambda: gc.collect() >= 0 and gone() is None, "the end of the app")
    assert ended.wait(20)
    wait_until(lambda: not results.clients(), "the end of its connections")


def test_default_in_the_registry(make: Callable[..., Celery]) -> None:
    app = make(result_drainer="default")
    task_id = uuid()
    app.backend.store_result(task_id, 1, "SUCCESS")
    assert app.AsyncResult(task_id).get(timeout=5) == 1


# -- a stock consumer on our drainers


def test_a_stock_consumer_runs_on_our_drainer(
    make: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch, worker: object
) -> None:
    with monkeypatch.context() as patch:
        for name in list(asynchronous.drainers):
            patch.setitem(asynchronous.drainers, name, drainers.ours(DRAINER))
        app = make(result_drainer=None, result_backend_thread_safe=True)
        consumer = app.backend.result_consumer
    assert isinstance(consumer.drainer, Drainer)
    assert type(app.backend) is RedisBackend
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert app.tasks["add"].delay(2, 3).get(timeout=20) == 5
        result = app.AsyncResult(uuid())
        with pytest.raises(Exception, match="timed out"):
            result.get(timeout=0.3)
        app.backend.remove_pending_result(result)
        assert GREEN or consumer.drainer.name == "thread"
    finally:
        consumer.drainer.stop()
    del result
    gc.collect()  # stock results talk to the server at their end, and it is there so far
