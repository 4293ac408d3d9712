"""What a server has spent, and what it keeps for its clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import redis

__all__ = ("SERVERS", "RabbitMQ", "Redis")

#: Commands of those who look on: they are nobody's cost.
LOOKING_ON = ("cmdstat_info", "cmdstat_client")

#: How Linux writes that a TCP connection is established.
ESTABLISHED = "01"


class Redis:
    """A Redis, seen over a connection that may do everything."""

    def __init__(self, addresses: dict[str, str]) -> None:
        self._probe = redis.Redis.from_url(addresses["probe"], client_name="probe")

    def spent(self) -> Counter[str]:
        """CPU time in microseconds, bytes and commands, since it was started."""
        cpu, network = self._probe.info("cpu"), self._probe.info("stats")
        commands = self._probe.info("commandstats").items()
        return Counter(
            {
                "cpu": int(1e6 * (cpu["used_cpu_user"] + cpu["used_cpu_sys"])),
                "in": network["total_net_input_bytes"],
                "out": network["total_net_output_bytes"],
                "commands": sum(
                    line["calls"] for name, line in commands if not name.startswith(LOOKING_ON)
                ),
            }
        )

    def channels(self) -> int:
        """How many are subscribed to."""
        return int(self._probe.info("stats")["pubsub_channels"])

    def cut_off_subscribers(self) -> None:
        """Close the connections of all who subscribe."""
        self._probe.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    def kept(self) -> Counter[str]:
        """Connections and subscriptions of the web processes, and the bytes of both."""
        kept: Counter[str] = Counter()
        for client in self._probe.client_list():
            if client["name"] == "web":
                memory = int(client.get("tot-mem", 0))
                kept.update(connections=1, subscriptions=int(client["sub"]), bytes=memory)
        return kept


class RabbitMQ:
    """A RabbitMQ on this machine, seen through what Linux knows of its processes.

    How many bytes go through its connections is known to its own tools alone, and left out.
    """

    def __init__(self, addresses: dict[str, str]) -> None:
        self._session = addresses["rabbitmq session"]
        self._port = f":{urlsplit(addresses['rabbitmq']).port:04X}"

    def spent(self) -> Counter[str]:
        """CPU time in microseconds, of the threads that there are: Erlang keeps its own."""
        threads = [
            thread for process in self._processes() for thread in process.glob("task/*/schedstat")
        ]
        return Counter(cpu=sum(int(thread.read_text().split()[0]) for thread in threads) // 1000)

    def kept(self) -> Counter[str]:
        """Connections of all clients."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        connections = [
            line for line in lines if line[1].endswith(self._port) and line[3] == ESTABLISHED
        ]
        return Counter(connections=len(connections))

    def _processes(self) -> Iterator[Path]:
        for path in Path("/proc").glob("[0-9]*"):
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            if fields[3] == self._session:
                yield path


SERVERS = {"redis": Redis, "rabbitmq": RabbitMQ}
