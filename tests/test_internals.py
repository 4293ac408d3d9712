"""The private names of other packages that are in use: these tests fail where one has gone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery._state
import pytest
import redis
from celery import Celery, current_task
from celery.backends.base import BaseBackend, BaseKeyValueStoreBackend
from celery.backends.redis import RedisBackend
from celery.backends.rpc import RPCBackend
from celery.result import AsyncResult
from kombu import pools, serialization
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Query, Session
from sqlalchemy.pool import Pool

import celery_green_drain
from celery_green_drain.internals import (
    disown_pools,
    eventlet_hub,
    psycopg_waits_in_c,
    sqlalchemy_is_listened_to,
)

from .green import MODE

#: Each of them, by what has it.
PRIVATE: dict[str, Any] = {
    "_ConnectionPool": RedisBackend(app=Celery(set_as_current=False), url="redis://"),
    "_after_fork": RPCBackend,
    "_cache": AsyncResult("1", app=Celery(set_as_current=False)),
    "_clslevel": Engine.dispatch.begin,
    "_create_client": RedisBackend,
    "_decoders": serialization.registry,
    "_ensure_not_eager": BaseBackend,
    "_event_names": Engine.dispatch,
    "_forget": BaseBackend,
    "_get_current_object": type(current_task),
    "_get_pool": RedisBackend,
    "_get_task_meta_for": BaseKeyValueStoreBackend,
    "_maybe_set_cache": AsyncResult,
    "_on_fulfilled": AsyncResult,
    "_pool": Celery,
    "_producer_pool": Celery(set_as_current=False).amqp,
    "_set_cache": AsyncResult,
    "_sock": redis.Connection(),
    "_state": celery,
}

#: Those that a test tries, as what has them cannot be imported beside every green library.
TRIED = {"_threadlocal"}

#: Those that look private and are not: documented, or a field of MongoDB.
PUBLIC = {"_default_manager", "_getframe", "_id", "_replace", "_thread"}

#: What this package puts into objects of others.
OURS = {"_drained_backends", "_made_client"}


@pytest.mark.parametrize("name", PRIVATE)
def test_it_is_there(name: str) -> None:
    assert hasattr(PRIVATE[name], name)


def test_there_are_no_others() -> None:
    used, defined = set(), set()
    for file in Path(celery_green_drain.__file__).parent.rglob("*.py"):
        for name, ours in _names(ast.parse(file.read_text())):
            (defined if ours else used).add(name)
    private = {name for name in used - defined if name.startswith("_") and name[:2] != "__"}
    assert private <= PRIVATE.keys() | TRIED | PUBLIC | OURS


def _names(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Each name in a module, and whether it is defined there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr, not isinstance(node.ctx, ast.Load)
        elif isinstance(node, ast.Name):
            yield node.id, not isinstance(node.ctx, ast.Load)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, True
        elif isinstance(node, ast.ImportFrom):
            for part in [*(node.module or "").split("."), *(alias.name for alias in node.names)]:
                yield part, False
        elif isinstance(node, ast.Constant) and str(node.value).isidentifier():
            yield str(node.value), False  # as getattr() takes it


def test_the_states_of_celery() -> None:
    for name in ("task_join_will_block", "push_current_task", "pop_current_task"):
        assert callable(getattr(celery._state, name))


def test_how_psycopg_waits() -> None:
    from psycopg import waiting  # cannot be imported beside every green library

    assert callable(waiting.wait)
    assert psycopg_waits_in_c() is (MODE != "gevent" and hasattr(waiting, "wait_c"))


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (Engine, "before_cursor_execute"),
        (Engine, "connect"),
        (Engine, "do_connect"),
        (Pool, "checkout"),
        (Session, "do_orm_execute"),
        (Query, "before_compile"),
    ],
)
def test_who_listens_to_sqlalchemy(target: type, name: str) -> None:
    assert not sqlalchemy_is_listened_to()
    event.listen(target, name, print)
    try:
        assert sqlalchemy_is_listened_to()
    finally:
        event.remove(target, name, print)
    assert not sqlalchemy_is_listened_to()


@pytest.mark.skipif(MODE != "eventlet", reason="eventlet has patched this process then alone")
def test_the_hub_of_eventlet() -> None:
    from eventlet import hubs

    assert eventlet_hub() is hubs.get_hub()


def test_the_pools_of_an_app() -> None:
    app = Celery(broker="memory://", set_as_current=False)
    with app.producer_or_acquire():
        mine = {app.pool, app.producer_pool}
    disowned = disown_pools(app)
    assert mine <= set(filter(None, disowned))
    assert not pools.connections
    assert not pools.producers
    with app.producer_or_acquire():
        assert not {app.pool, app.producer_pool} & mine
    app.close()
