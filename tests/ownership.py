"""Who touches the table of pending results: the drain loop alone, as it takes no lock."""

from __future__ import annotations

import inspect
import threading
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

from celery_green_drain.consumers.base import ResultConsumer
from celery_green_drain.consumers.polled.consumer import PolledResultConsumer
from celery_green_drain.consumers.redis.consumer import RedisResultConsumer
from celery_green_drain.consumers.rpc.consumer import RpcResultConsumer
from celery_green_drain.drainers.base import Drainer
from celery_green_drain.table import PendingTable

__all__ = ("watch_the_table",)

#: Those that end in a way of their own may do so.
CONSUMERS = (ResultConsumer, PolledResultConsumer, RedisResultConsumer, RpcResultConsumer)


def watch_the_table(monkeypatch: Any) -> list[str]:
    """Have each change of a table looked at; return where others than a loop have made one."""
    #: Threads and greenlets that are in a loop, and how deep: a foreign drainer's are others'.
    inside: dict[int, int] = {}
    wrong: list[str] = []

    def loop(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            ident = threading.get_ident()
            inside[ident] = inside.get(ident, 0) + 1
            try:
                return function(*args, **kwargs)
            finally:
                inside[ident] -= 1
                if not inside[ident]:
                    del inside[ident]

        return run

    def change(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() not in inside:
                wrong.append("".join(traceback.format_stack(limit=12)))
            return function(*args, **kwargs)

        return run

    monkeypatch.setattr(Drainer, "turn", loop(Drainer.turn))
    for cls in CONSUMERS:
        if "on_drainer_end" in vars(cls):
            monkeypatch.setattr(cls, "on_drainer_end", loop(vars(cls)["on_drainer_end"]))
    for name, function in _public(PendingTable):
        monkeypatch.setattr(PendingTable, name, change(function))
    return wrong


def _public(cls: type) -> list[tuple[str, Any]]:
    """Its methods, but for those that only look, and say so."""
    return [
        (name, value)
        for name, value in vars(cls).items()
        if inspect.isfunction(value)
        and not name.startswith("_")
        and "For everybody." not in (value.__doc__ or "")
    ]
