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
import weakref
from typing import Protocol

from . import uwsgi

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
    # Before a worker's first request, so before Celery takes a connection to send a task over,
    # which notice() is not.
    uwsgi.hook("post_fork_hook", notice)


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
    errors: list[Exception] = []
    for member in list(_members):
        try:
            member.after_fork_in_child()
        except Exception as exc:  # of somebody's own, and the others are not to stay the parent's
            errors.append(exc)
    if errors:
        raise errors[0]


# Celery's and kombu's own hooks know billiard's and multiprocessing's forks only.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
