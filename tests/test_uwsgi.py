"""What uWSGI calls in a worker that it has forked. It is tried itself by hand, see the docs."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
from celery import Celery, uuid

from celery_green_drain import ResultNeverCame, exits

from .children import has_ended
from .green import spawn, wait_until


@pytest.fixture
def uwsgi(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that uWSGI puts into its processes, as far as it matters here."""
    module = ModuleType("uwsgi")
    module.worker_id = lambda: 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    return module


def test_a_worker_begins_anew_before_its_first_request(
    make: Callable[..., Celery], uwsgi: ModuleType
) -> None:
    called: list[bool] = []
    uwsgi.post_fork_hook = lambda: called.append(True)  # type: ignore[attr-defined]
    consumer = make().backend.result_consumer
    of_the_parent = consumer.table
    reader, writer = os.pipe()
    pid = ctypes.CDLL(None).fork()
    if pid == 0:
        try:
            uwsgi.post_fork_hook()
            os.write(writer, bytes([consumer.table is not of_the_parent, *called]))
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 10) == bytes([True, True])
    os.close(reader)
    wait_until(lambda: has_ended(pid), "the end of the child")
    assert consumer.table is of_the_parent


def test_a_hook_that_takes_the_place_of_ours_is_called_as_well(
    make: Callable[..., Celery], uwsgi: ModuleType
) -> None:
    """As that of ``uwsgidecorators`` does, wherever it is imported."""
    assert make().backend
    ours, called = uwsgi.post_fork_hook, []  # type: ignore[var-annotated]
    assert make().backend
    assert uwsgi.post_fork_hook is ours
    uwsgi.post_fork_hook = lambda: called.append(True)  # type: ignore[attr-defined]
    assert make().backend
    uwsgi.post_fork_hook()
    assert called == [True]


def test_the_end_of_a_worker_waits_for_callbacks(
    make: Callable[..., Celery],
    uwsgi: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With gevent uWSGI calls nothing but this."""
    others, given_up = [], []  # type: ignore[var-annotated]
    uwsgi.atexit = lambda: others.append(True)  # type: ignore[attr-defined]
    app = make(result_drainer_exit_timeout=0.1)
    app.AsyncResult(uuid()).then(print, on_error=given_up.append)
    wait_until(lambda: app.backend.result_consumer.statistics().pending, "the callback")
    monkeypatch.setattr(exits, "_ended", 0)  # else once a process, and for all that there are
    monkeypatch.setattr(exits, "_ending", {app.backend.result_consumer})
    uwsgi.atexit()
    assert [type(error) for error in given_up] == [ResultNeverCame]
    assert "The process ends, and 1 results" in caplog.text
    assert others == [True]


def test_who_ends_the_process_second_waits_for_the_first(
    make: Callable[..., Celery], uwsgi: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With gevent uWSGI calls for the last request, and then before it goes."""
    app = make(result_drainer_exit_timeout=0.5)
    consumer = app.backend.result_consumer
    monkeypatch.setattr(exits, "_ended", 0)
    monkeypatch.setattr(exits, "_ending", {consumer})
    given_up: list[Exception] = []
    app.AsyncResult(uuid()).then(print, on_error=given_up.append)
    wait_until(lambda: consumer.statistics().pending, "the callback")
    spawn(uwsgi.atexit)
    wait_until(lambda: exits._under_way, "its beginning")
    uwsgi.atexit()
    assert len(given_up) == 1
    assert not exits._under_way
