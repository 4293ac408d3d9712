"""Results in files, announced to all who listen: the example of "Writing a result consumer"."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from celery import states
from celery.backends.filesystem import FilesystemBackend

from celery_green_drain import DrainedBackendMixin, ResultConsumer

#: Announcements that one turn of the loop reads at most.
BATCH = 100


class AnnouncedConsumer(ResultConsumer):
    """Listens on a socket in the folder of the results."""

    connection_errors = (OSError,)

    def _begin(self) -> None:
        super()._begin()
        self._socket: socket.socket | None = None

    @property
    def connections(self) -> int:
        return int(self._socket is not None)

    # -- in the drain loop

    def drain_events(self, timeout: float | None = None) -> None:
        if self._socket is None:
            self._listen()
            for task_id in list(self.table):
                self.on_wanted(task_id)  # those that began to wait before
        elif self.mailbox.wait(timeout):
            self._read(self._socket)

    def _listen(self) -> None:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listening.bind(str(self.backend.folder / f"{os.getpid()}.listener"))
        listening.setblocking(False)
        self.mailbox.register(listening)
        self._socket = listening

    def _read(self, listening: socket.socket) -> None:
        with suppress(BlockingIOError):
            for _ in range(BATCH):
                self.on_wanted(listening.recv(1000).decode())

    def on_wanted(self, task_id: str) -> None:
        # Who listens before it looks overlooks nothing.
        if self._socket is not None and task_id in self.table:
            meta = self.backend.stored(task_id)
            if meta["status"] != states.PENDING:
                self.deliver(task_id, partial(dict, meta), stored=True)

    # -- the ends of things

    def disconnect(self) -> None:
        listening, self._socket = self._socket, None
        if listening is not None:
            self.mailbox.unregister(listening)
            Path(listening.getsockname()).unlink()
            listening.close()

    def forget_connections(self) -> object:
        return self._socket


class AnnouncedBackend(DrainedBackendMixin, FilesystemBackend):  # type: ignore[misc]
    """Celery's file backend; whoever stores a result tells all who listen."""

    stored: Callable[[str], Any] = FilesystemBackend.get_task_meta

    def __init__(self, app: Any, url: str, **kwargs: Any) -> None:
        super().__init__(app, url="file://" + url.partition("://")[2], **kwargs)
        self.folder = Path(self.path.decode() if isinstance(self.path, bytes) else self.path)
        self.result_consumer = AnnouncedConsumer(self)

    def store_result(self, task_id: Any, *args: Any, **kwargs: Any) -> Any:
        stored = super().store_result(task_id, *args, **kwargs)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as announcing:
            for listener in self.folder.glob("*.listener"):
                with suppress(OSError):  # it has ended, or looks into the store later
                    announcing.sendto(str(task_id).encode(), str(listener))
        return stored
