"""What this package says, and how often: warnings once, some lines of the log seldom."""

from __future__ import annotations

import logging
import mmap
import sys
import warnings
import zlib
from types import FrameType

from .clock import monotonic
from .errors import DrainerWarning

__all__ = ("Seldom", "notify")

logger = logging.getLogger(__name__)

#: Bytes, one for each text that was said, by its checksum.
SIZE = 65536

#: Memory that a process shares with those that it forks: the children of a prefork worker say
#: something once, not once each.
_said = mmap.mmap(-1, SIZE)

#: Seconds between two lines in the log of what may happen thousands of times.
REPORT = 60.0

#: Packages between the user's line and ours.
BETWEEN = {"celery", "celery_green_drain", "contextlib", "functools", "kombu", "vine"}


class Seldom:
    """Lines of one kind in the log: one in :data:`REPORT` seconds."""

    def __init__(self) -> None:
        self._said = float("-inf")

    @property
    def due(self) -> bool:
        """Whether the last one is long enough ago."""
        return monotonic() - self._said >= REPORT

    def said(self) -> None:
        self._said = monotonic()


def notify(text: str) -> None:
    """Say *text* in a :exc:`DrainerWarning` and in the log, unless it was said before.

    The warning has the user's line.

    :raises DrainerWarning: where the user has made an error of it.
    """
    place = zlib.crc32(text.encode()) % SIZE
    if _said[place]:
        return
    _said[place] = 1
    if logger.hasHandlers():  # else the log would go where the warning goes
        logger.warning("%s", text)
    frame = _user_frame()
    warnings.warn_explicit(
        text,
        DrainerWarning,
        filename=frame.f_code.co_filename,
        lineno=frame.f_lineno,
        module=frame.f_globals.get("__name__", "<unknown>"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _user_frame() -> FrameType:
    """The frame of whoever has called Celery or us; in a greenlet of ours the outermost one."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _package(frame) in BETWEEN:
        frame = frame.f_back
    return frame


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
