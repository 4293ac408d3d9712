"""The end of the process: callbacks that are pending are waited for, and then given up.

A web server answers the requests that it has, and ends. Results that only callbacks wait for are
nobody's request, so without this they would be dropped, without a word.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from multiprocessing import parent_process, util
from typing import Protocol

from celery.signals import worker_process_shutdown

from . import uwsgi
from .clock import monotonic

__all__ = ("Ending", "finish", "register", "register_last", "register_thread")

logger = logging.getLogger(__name__)

#: Seconds that callbacks have to end which are told that their result will not come.
GRACE = 1.0

#: Seconds between two looks whether somebody else is through with it.
LOOK = 0.02


class Ending(Protocol):
    """Something with callbacks that the end of the process is to wait for."""

    #: Seconds to wait at most; 0: do not wait.
    exit_timeout: float

    def wait_for_callbacks(self, deadline: float) -> None:
        """Wait until none is pending or under way, but not after *deadline*."""

    def give_up_callbacks(self, at_once: bool) -> None:
        """Begin to tell those whose result has not come: in the drain loop, or *at_once*, here."""

    #: How many results that was.
    given_up: int

    def wait_for_calls(self, deadline: float) -> bool:
        """Wait until none is under way; return whether there is one at *deadline*."""


_ending: weakref.WeakSet[Ending] = weakref.WeakSet()


def register(ending: Ending) -> None:
    """Have the end of the process wait for *ending*, which is held weakly."""
    _ending.add(ending)
    uwsgi.hook("atexit", finish)  # with gevent it calls none of Python's


_last: list[Callable[[], object]] = []


def register_last(function: Callable[[], object]) -> None:
    """Have *function* called when all callbacks have ended or been given up."""
    _last.append(function)


_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def register_thread(thread: threading.Thread) -> None:
    """Have the end of the process wait for a native *thread* in which a driver is called.

    Where the interpreter goes while such a thread has a hub of eventlet's, it may crash.
    """
    _threads.add(thread)


#: The process that has ended by now: its child may go on.
_ended = 0

#: Processes whose end is under way: in which thread, and until when at most.
_under_way: dict[int, tuple[int, float]] = {}


# For a prefork worker's processes as well, which end without Python's hooks.
@atexit.register
@worker_process_shutdown.connect(weak=False)
def finish(**kwargs: object) -> None:
    """Wait for the callbacks of all apps together, and give up what is left. Once a process.

    It happens by itself where Python, ``multiprocessing``, Celery or uWSGI ends the process. For
    servers that end it otherwise: to be called last, and not in the thread of an event loop. It
    takes as long as ``result_drainer_exit_timeout`` says, and two seconds more at most.
    """
    _finish_once()
    until = monotonic() + GRACE
    for thread in list(_threads):
        thread.join(max(0.0, until - monotonic()))


def _finish_once() -> None:
    global _ended
    process, caller, all_of_them = os.getpid(), threading.get_ident(), list(_ending)
    longest = max((each.exit_timeout for each in all_of_them), default=0.0)
    own = caller, monotonic() + longest + 2 * GRACE
    while _ended != process:
        other = _under_way.setdefault(process, own)
        if other is own:
            try:
                _finish(all_of_them)
            finally:  # not once more, where it was interrupted
                _finish_last()
                _ended = process
                del _under_way[process]
        elif other[0] == caller or monotonic() > other[1]:
            return  # such as a signal in the middle of it
        else:
            # As uWSGI with gevent calls in two greenlets, and ends when the second one returns.
            time.sleep(LOOK)


def _begin_in_child(*_: object) -> None:
    # A child of multiprocessing calls nothing of ``atexit``, and drops what its parent has here.
    util.Finalize(None, finish, exitpriority=0)


util.register_after_fork(finish, _begin_in_child)
if parent_process() is not None:  # imported in the child itself
    _begin_in_child()


def _finish_last() -> None:
    for function in _last:
        try:
            function()
        except Exception:
            logger.exception("This failed at the end of the process: %r", function)


def _finish(all_of_them: list[Ending]) -> None:
    try:
        begun = monotonic()
        for each in all_of_them:
            each.wait_for_callbacks(begun + each.exit_timeout)
    finally:  # also where somebody does not want to wait, as gunicorn which is told to quit twice
        _give_up(all_of_them)


def _give_up(all_of_them: list[Ending]) -> None:
    for each in all_of_them:
        each.give_up_callbacks(at_once=False)
    until = monotonic() + GRACE
    for each in all_of_them:
        each.wait_for_calls(until - GRACE / 2)
        each.give_up_callbacks(at_once=True)  # where the loop has not noticed, as it is connecting
    unfinished = [each for each in all_of_them if each.wait_for_calls(until)]
    given_up = sum(each.given_up for each in all_of_them)
    if given_up:
        logger.warning(
            "The process ends, and %d results that callbacks wait for have not come. They are "
            "given up; result_drainer_exit_timeout says how long the end waits for them.",
            given_up,
        )
    if unfinished:
        logger.warning("The process ends in the middle of callbacks.")
