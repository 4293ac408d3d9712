"""Watches a result beside a test."""

from __future__ import annotations

from typing import Any

from celery_green_drain import State, watch

from .green import spawn, wait_until


class Watcher:
    """Watches beside the test."""

    def __init__(self, result: Any, timeout: float | None = 30) -> None:
        self.seen: list[State] = []
        self.error: BaseException | None = None
        self.ended = False
        self.states = watch(result, timeout)
        self.spawned = spawn(self._watch)

    def _watch(self) -> None:
        try:
            for state in self.states:
                self.seen.append(state)
        except Exception as exc:
            self.error = exc
        finally:
            self.ended = True

    def wait(self) -> list[State]:
        wait_until(lambda: self.ended, "the end of the watcher")
        return self.seen
