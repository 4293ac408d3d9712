"""Sockets of which somebody else reads: looked at without waiting, with and without TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ("is_closed", "not_blocking", "nothing_there")


@contextmanager
def not_blocking(sock: Any) -> Iterator[None]:
    """Have *sock* raise, inside, where there is nothing to read. See :func:`nothing_there`."""
    patience = sock.gettimeout()
    sock.settimeout(0)
    try:
        yield
    finally:
        sock.settimeout(patience)


def nothing_there(exc: BaseException | None) -> bool:
    """Whether *exc* only says that a socket which does not block has nothing to read.

    redis-py has no error for that. eventlet's TLS sockets say that the time is up.
    """
    nothing = (BlockingIOError, ssl.SSLWantReadError, socket.timeout)
    while exc is not None and not isinstance(exc, nothing):
        exc = exc.__context__
    return exc is not None


def is_closed(sock: Any) -> bool:
    """Whether the other end has closed *sock*, of which nobody reads just now. Reads nothing.

    With TLS that cannot be seen, and the answer is no.
    """
    if isinstance(sock, ssl.SSLSocket):
        return False
    try:
        with not_blocking(sock):
            return not sock.recv(1, socket.MSG_PEEK)
    except OSError as exc:
        return not nothing_there(exc)
