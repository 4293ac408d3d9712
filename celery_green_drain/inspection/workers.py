"""Checks of the workers: what they are set to, and one task there and back."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from celery import states, uuid
from celery.exceptions import TimeoutError

from ..addresses import masked
from ..backends.rpc import RpcBackend
from ..figures import moment
from ..quoting import one_line
from .findings import Finding

__all__ = ("check_round_trip", "check_workers")

#: The user and the password in an address, and its query: they do not tell where it is.
NOT_WHERE = re.compile(r"(?<=://)[^/@]*@|\?.*$")


def check_workers(app: Any, timeout: float, figures: dict[str, Any]) -> Iterator[Finding]:
    """Compare the workers' configurations with that of *app*."""
    answers = app.control.inspect(timeout=timeout).conf(with_defaults=True) or {}
    figures["workers"] = len(answers)
    if not answers:
        yield Finding("GD301", f"Nobody has answered within {timeout:g} seconds.")
    for name, conf in sorted(answers.items()):
        yield from _compare(app, name, conf)


def _compare(app: Any, name: str, theirs: Mapping[str, Any]) -> Iterator[Finding]:
    ours = app.conf
    here, there = _where(ours.result_backend), _where(theirs.get("result_backend"))
    if here != there:
        yield Finding("GD302", f"{name} stores in {there!r}, and this app reads {here!r}.")
    if here.startswith(("redis", "sentinel")) and not theirs.get("result_backend_always_retry"):
        yield Finding("GD304", f"{name} has no result_backend_always_retry.")
    serializer = theirs.get("result_serializer")
    accepted = ours.result_accept_content or ours.accept_content
    if serializer and serializer not in {str(kind).rpartition("/")[2] for kind in accepted}:
        shown = ", ".join(sorted(map(str, accepted)))
        yield Finding("GD305", f"{name} writes {serializer!r}, and this app accepts {shown}.")
    mine, other = map(_prefix, (ours, theirs))
    if mine != other:
        yield Finding("GD306", f"{name} has global_keyprefix = {other!r}, and this app {mine!r}.")
    if theirs.get("task_ignore_result"):
        yield Finding("GD307", f"{name} has task_ignore_result.")


def _prefix(conf: Mapping[str, Any]) -> Any:
    return (conf.get("result_backend_transport_options") or {}).get("global_keyprefix")


def _where(url: Any) -> str:
    text = NOT_WHERE.sub("", masked(url))
    text = text[len("green+") :] if text.startswith("green+") else text
    return text.rstrip("/")


def check_round_trip(app: Any, timeout: float, figures: dict[str, Any]) -> Iterator[Finding]:
    """Send a task that each worker has, and wait for its result."""
    token, began, at = uuid(), time.monotonic(), time.time()
    try:
        result = app.send_task(
            "celery.accumulate", (token,), {"index": 0}, ignore_result=False, expires=timeout * 2
        )
        sent = time.monotonic()
        value = result.get(timeout=timeout, disable_sync_subtasks=False)
    except TimeoutError as exc:
        yield Finding("GD308", str(exc))
        return
    except Exception as exc:
        yield Finding("GD308", one_line(exc))
        return
    delivered = time.monotonic() - began
    figures["sent"] = sent - began
    done = moment(result.date_done)
    if done is not None:  # by the worker's clock
        figures["stored"] = done - at
    figures["delivered"] = delivered
    if value != token:
        yield Finding("GD308", f"The worker has returned {value!r:.80} in place of {token!r}.")
    elif not isinstance(app.backend, RpcBackend):
        stored = app.backend.get_task_meta(result.id, cache=False)
        if stored["status"] != states.SUCCESS:
            yield Finding(
                "GD303",
                f"{masked(app.conf.result_backend)} has no result of the task that was run.",
            )
    result.forget()
