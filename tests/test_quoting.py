"""What others have sent stands in one line of the log."""

from __future__ import annotations

import pytest

from celery_green_drain.quoting import LONGEST_ERROR, LONGEST_ID, one_line, quoted


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028", "\x1b[2K"])
def test_no_line_of_its_own(end: str) -> None:
    text = f"x{end}CRITICAL: forged"
    assert len(quoted(text).splitlines()) == 1
    assert len(one_line(ValueError(text)).splitlines()) == 1
    assert quoted(text).isprintable()
    assert one_line(ValueError(text)).isprintable()


def test_what_is_plain_stays_readable() -> None:
    assert quoted("5f0c-ü") == "'5f0c-ü'"
    assert one_line(KeyError("x")) == "KeyError: 'x'"
    assert one_line(OSError("it's away")) == "OSError: it's away"


def test_what_is_long_is_cut() -> None:
    assert len(quoted("x" * 10_000)) < LONGEST_ID + 10
    assert len(one_line(ValueError("x" * 10_000))) < LONGEST_ERROR + 20


def test_an_id_that_is_no_text() -> None:
    assert quoted(7) == "'7'"
