"""Texts of others, as they may stand in a line of the log.

A task id may be what a browser has sent, and an error may repeat it. With a line break in it, it
would write lines of its own.
"""

from __future__ import annotations

__all__ = ("one_line", "quoted")

#: Characters of a task id that are shown: more than Celery's own ids have.
LONGEST_ID = 80

#: Characters of an error's message that are shown: a decoder's may hold all that it could not read.
LONGEST_ERROR = 200


def quoted(task_id: object) -> str:
    """*task_id* in quotes, on one line, and cut short where it is long.

    >>> quoted("x\\nCRITICAL: forged")
    "'x\\\\nCRITICAL: forged'"
    """
    return repr(_cut(str(task_id), LONGEST_ID))


def one_line(error: BaseException) -> str:
    """The class of *error* and the first line of its message, cut short where that is long."""
    text = _cut(str(error).partition("\n")[0], LONGEST_ERROR)
    return f"{type(error).__name__}: {text if text.isprintable() else repr(text)}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "…"
