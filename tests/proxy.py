"""A TCP proxy that misbehaves on request: a process of its own, as the tests' is patched."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

from .green import wait_until
from .servers import Process, free_port

#: Connections that may be waiting to be accepted: of a thousand that come at once, none is to try
#: again a second later.
BACKLOG = 4096


class Control:
    """A proxy that somebody has started, by the port where it is told what to do."""

    def __init__(self, port: int) -> None:
        self.control = port

    def tell(self, command: str) -> None:
        with socket.create_connection(("127.0.0.1", self.control), 5) as control:
            control.sendall(f"{command}\n".encode())
            assert control.recv(16) == b"done\n", f"the proxy does not {command}"

    def alternate(self, target: int) -> None:
        """Connect each second client to another server."""
        self.tell(f"alternate {target}")

    def swallow(self) -> None:
        """Let nothing through any more, over connections old and new, and close none."""
        self.tell("swallow")

    def trickle(self) -> None:
        """Let each byte through by itself."""
        self.tell("trickle")

    def flatten(self) -> None:
        """Tell pushes of Redis as arrays, as some do that stand in for it."""
        self.tell("flatten")

    def spoil(self) -> None:
        """Tell an error of Redis where it says that there is nothing."""
        self.tell("spoil")

    def pass_on(self) -> None:
        """Let everything through, over new connections. What was swallowed is lost."""
        self.tell("pass")

    def reset(self) -> None:
        """Reset all connections."""
        self.tell("reset")

    def refuse(self) -> None:
        """Reset all connections, and each new one."""
        self.tell("refuse")


class Proxy(Control):
    """What stands between a client and ``127.0.0.1:target``.

    :param delay: seconds that each byte travels, each way.
    """

    def __init__(self, target: int, delay: float = 0.0) -> None:
        super().__init__(free_port())
        self.port = free_port()
        ports = (str(port) for port in (self.port, target, self.control))
        self.process = Process(sys.executable, "-m", "tests.proxy", *ports)
        wait_until(self._listens, "the proxy")
        self.tell(f"delay {delay}")

    def _listens(self) -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            self.tell("pass")
            return True
        return False

    def end(self) -> None:
        self.process.end()


@contextlib.contextmanager
def proxied(target: int, delay: float = 0.0) -> Iterator[Proxy]:
    proxy = Proxy(target, delay)
    try:
        yield proxy
    finally:
        proxy.end()


class _Server:
    def __init__(self, target: int) -> None:
        self.targets = itertools.cycle([target])
        self.mode = "pass"
        self.delay = 0.0
        self.writers: set[asyncio.StreamWriter] = set()
        self.tasks: set[Any] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        if self.mode == "refuse":
            self._reset(writer)
            return
        try:
            there = await asyncio.open_connection("127.0.0.1", next(self.targets))
        except OSError:
            self._reset(writer)
            return
        self.writers.add(there[1])
        # Who came while all was swallowed stays so, though later ones may pass.
        dead = self.mode == "swallow"
        for source, target in ((reader, there[1]), (there[0], writer)):
            travelling: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue()
            for pump in (self._take(source, travelling, dead), self._give(travelling, target)):
                task = asyncio.ensure_future(pump)
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)

    async def _take(
        self, source: asyncio.StreamReader, travelling: asyncio.Queue[Any], dead: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                dead = dead or self.mode == "swallow"
                if dead:
                    continue
                if self.mode == "flatten":
                    data = data.replace(b">3\r\n", b"*3\r\n")
                if self.mode == "spoil":
                    for nothing in (b"_\r\n", b"$-1\r\n"):
                        data = data.replace(nothing, b"-ERR upstream failure\r\n")
                step = 1 if self.mode == "trickle" else len(data)
                for start in range(0, len(data), step):
                    travelling.put_nowait((loop.time() + self.delay, data[start : start + step]))
                    if step == 1:
                        await asyncio.sleep(0.0005)
        if not dead and self.mode != "swallow":
            travelling.put_nowait((loop.time() + self.delay, None))

    async def _give(self, travelling: asyncio.Queue[Any], target: asyncio.StreamWriter) -> None:
        # One after the other, so that nothing overtakes what was sent while the delay was longer.
        loop = asyncio.get_running_loop()
        while True:
            arrival, data = await travelling.get()
            await asyncio.sleep(max(0.0, arrival - loop.time()))
            if data is None:
                target.close()
                return
            target.write(data)

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command, *arguments = (await reader.readline()).decode().split()
        if command == "delay":
            self.delay = float(arguments[0])
        elif command == "alternate":
            self.targets = itertools.cycle([next(self.targets), int(arguments[0])])
        elif command in ("reset", "refuse"):
            for other in self.writers:
                self._reset(other)
            self.writers.clear()
        if command not in ("delay", "reset", "alternate"):
            self.mode = command
        writer.write(b"done\n")
        writer.close()


async def _main(port: int, target: int, control: int) -> None:
    server = _Server(target)
    await asyncio.start_server(server.serve, "127.0.0.1", port, backlog=BACKLOG)
    listener = await asyncio.start_server(server.control, "127.0.0.1", control)
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(*map(int, sys.argv[1:])))
