"""A test that hangs is ended."""

from __future__ import annotations

import threading

import pytest

from .green import TooLong, limit


def test_who_waits_for_ever_is_told() -> None:
    with pytest.raises(TooLong, match=r"0\.1 s"), limit(0.1):
        threading.Event().wait(20)


def test_who_is_in_time_is_not_disturbed() -> None:
    with limit(0.1):
        pass
    assert not threading.Event().wait(0.3)
