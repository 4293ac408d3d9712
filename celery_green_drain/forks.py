"""Forks: a child begins anew, and leaves to its parent what is the parent's.

A fork copies everything: sockets that the parent goes on reading, greenlets that sleep in its
hub, tables of results that it waits for. So in a child, before anything else runs:

1. Each result consumer abandons its drain loop. Under a green library the copy of that greenlet
   would run on, and read from the parent's sockets.
2. What the parent has open is *kept*, untouched, so that nothing of it is finalised here.
3. The consumer begins anew: no pending results, another reply queue, a loop at the first wait.

Python tells of its own forks, and uWSGI of its workers. Another one made in C tells nobody, so
whatever comes from outside calls :func:`notice` first: to begin a wait, to start a loop, to name
the reply queue. The loop looks whenever others may have run, see
:class:`~.drainers.mailbox.Mailbox`.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ("Member", "keep", "notice", "register")


class Member(Protocol):
    """Something that begins anew in a child."""

    def after_fork_in_child(self) -> None:
        """Do so: neither block, nor switch, nor touch a socket."""


_members: weakref.WeakSet[Member] = weakref.WeakSet()

#: What belongs to the parent.
_parents: list[object] = []

_pid = os.getpid()


def register(member: Member) -> None:
    """Have *member* told in a child; it is held weakly."""
    _members.add(member)
    _ask_uwsgi()


def keep(*things: object) -> None:
    """Never finalise *things* in this process: they are its parent's."""
    _parents.append(things)


def notice() -> None:
    """Tell all members if this process is a child that nobody has told so far."""
    if os.getpid() != _pid:
        _begin_anew()


def _begin_anew() -> None:
    global _pid
    _pid = os.getpid()
    for member in list(_members):
        member.after_fork_in_child()


def _ask_uwsgi() -> None:
    """Have uWSGI tell its workers before their first request.

    That is before Celery takes a connection to send a task over, which :func:`notice` is not.
    """
    uwsgi: Any = sys.modules.get("uwsgi")  # there in its own processes alone
    hook = getattr(uwsgi, "post_fork_hook", None)
    if hasattr(uwsgi, "worker_id") and not isinstance(hook, _Hook):
        # Perhaps not for the first time: that of "uwsgidecorators" takes the place of all others.
        uwsgi.post_fork_hook = _Hook(hook)


class _Hook:
    """What uWSGI calls in a worker that it has forked.

    :param other: what it called before, such as the functions of its ``@postfork``.
    """

    def __init__(self, other: Callable[[], object] | None) -> None:
        self._other = other

    def __call__(self) -> None:
        notice()
        if self._other is not None:
            self._other()


# Celery's and kombu's own hooks know billiard's and multiprocessing's forks only.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
