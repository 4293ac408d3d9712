"""The clock that pauses and timeouts go by: it goes on where a test has stopped the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

__all__ = ("monotonic",)

#: Seconds, as ``time.monotonic()`` has them. freezegun replaces that one, in all modules: a pause
#: would never be over, and one that began in frozen time would last for decades after it.
monotonic: Callable[[], float] = (
    # On macOS the first one, which does not count while the machine sleeps.
    partial(time.clock_gettime, getattr(time, "CLOCK_UPTIME_RAW", time.CLOCK_MONOTONIC))
    if hasattr(time, "clock_gettime")
    else partial(time.monotonic)
)
