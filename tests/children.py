"""Children that are forked: of a program, which do the same as it, and of the tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

__all__ = ("Children", "has_ended")

COUNT = 3


class Children:
    """Forked at once: each calls *work* with its number, and ends."""

    def __init__(self, work: Callable[[int], object]) -> None:
        self._pids = [_fork(work, number) for number in range(COUNT)]

    def check(self) -> None:
        """Wait for their ends, which are to be good ones."""
        assert [os.waitpid(pid, 0)[1] for pid in self._pids] == [0] * COUNT


def _fork(work: Callable[[int], object], number: int) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(number)
            code = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return pid


def has_ended(pid: int) -> bool:
    """Whether that child has, with a good end."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
        assert status == 0
        return ended == pid
    except ChildProcessError:
        return True  # gevent, which once has forked, reaps all children
