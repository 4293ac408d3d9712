"""Copies: each waiter and each callback owns what it gets.

An exception that is raised twice collects the frames of all who have caught it, and with them the
locals of other requests. A value that two requests share is changed under the one by the other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

__all__ = ("Own", "own_error", "own_value", "same_state", "snapshot")

Item = TypeVar("Item")
Error = TypeVar("Error", bound=BaseException)

#: How an exception says that it is more than its arguments and attributes.
CUSTOM = ("__copy__", "__reduce__", "__reduce_ex__", "__setstate__")

#: How many causes of an exception are copied with it.
DEPTH = 10

#: Sets an attribute of an exception whose class may refuse that, as a frozen dataclass does.
_set = BaseException.__setattr__

#: What cannot change.
ATOMS = (str, int, float, bool, bytes, complex, type(None))


def snapshot(items: Iterable[Item]) -> list[Item]:
    """What is in a dictionary or a deque that others change, such as finalisers.

    In one step: up to Python 3.11 ``tuple(items)`` may collect garbage in its middle, and a
    finaliser that runs then changes *items* under it. A list grows without that.
    """
    return list(items)


class Own:
    """A state for each who is told of it. The first gets what was read, others have it read anew.

    :param read: reads the state; what it returns is nobody else's.
    """

    __slots__ = ("_read", "unused")

    def __init__(self, state: dict[str, Any], read: Callable[[], dict[str, Any]]) -> None:
        #: What was read; None: somebody has it.
        self.unused: dict[str, Any] | None = state
        self._read = read

    def __call__(self) -> dict[str, Any]:
        state, self.unused = self.unused, None
        return self._read() if state is None else state


def own_error(error: Error, depth: int = DEPTH) -> Error:
    """A copy of *error* and its cause, without a traceback; itself, where it cannot be copied."""
    for make in _ways(error):
        made = _try(make, error)
        if made is not None:
            if error.__cause__ is not None and depth:
                _set(made, "__cause__", own_error(error.__cause__, depth - 1))
            _set(made, "__suppress_context__", error.__suppress_context__)
            return made.with_traceback(None)
    return error


def _ways(error: BaseException) -> tuple[Callable[[Any], Any], ...]:
    cls, base = type(error), BaseException
    if any(getattr(cls, name, None) is not getattr(base, name, None) for name in CUSTOM):
        return copy.copy, _bare_copy
    return _bare_copy, copy.copy


def _bare_copy(error: Error) -> Error:
    """Without ``__init__``, which may take other arguments than those that it keeps."""
    made = type(error).__new__(type(error), *error.args)
    _set(made, "args", error.args)
    vars(made).update(vars(error))
    return made


def _try(make: Callable[[Error], Error], error: Error) -> Error | None:
    """What *make* makes, if that is a copy; it runs code of whoever wrote the exception."""
    try:
        made = make(error)
        same = type(made) is type(error) and made.args == error.args and str(made) == str(error)
    except Exception:
        return None
    return made if same and made is not error and vars(made).keys() == vars(error).keys() else None


def own_value(value: Any) -> Any:
    """A copy of *value* and of all that is in it; itself, where it cannot be copied."""
    cls = type(value)
    if cls in ATOMS:
        return value
    if cls is dict:
        return {key: own_value(item) for key, item in value.items()}
    if cls in (list, tuple, set, frozenset):
        return cls(map(own_value, value))
    if isinstance(value, BaseException):
        return own_error(value)
    try:
        return copy.deepcopy(value)
    except Exception:
        return value  # such as one that holds a lock


def same_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two states say the same, also where each has an exception of its own."""
    try:
        if one == other:
            return True
    except Exception:
        return False  # such as arrays, which have no one answer
    error, second = one.get("result"), other.get("result")
    return (
        isinstance(error, BaseException)
        and isinstance(second, type(error))
        and error.args == second.args
        and {**one, "result": None} == {**other, "result": None}
    )
