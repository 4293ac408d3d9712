"""How the drain loop is woken out of its ``select()``."""

from __future__ import annotations

import socket
from contextlib import suppress

__all__ = ("Waker",)


class Waker:
    """A socket to itself. :meth:`wake` may be called from any thread, and from finalisers."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        # Not blocking, so that a green library's send() never switches.
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._awake = False

    def fileno(self) -> int:
        return self._receiver.fileno()

    def wake(self) -> None:
        """End the loop's ``select()``, now or at its next call. Never blocks, never raises."""
        if not self._awake:
            self._awake = True
            try:
                self._sender.send(b"\0")
            except OSError:
                # Closed by the loop's end, which has looked at everything by then; or full,
                # and then the loop is awake anyway.
                self._awake = False

    def clear(self) -> None:
        """Take notice. To be called before what woke the loop is looked at."""
        with suppress(BlockingIOError):
            self._receiver.recv(4096)
        self._awake = False

    def close(self) -> None:
        self._receiver.close()
        self._sender.close()
