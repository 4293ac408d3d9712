"""The environment of a cell: made by uv, with the wheel that this checkout builds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .cells import PYTHONS, Cell

__all__ = ("Failure", "build", "interpreter", "make", "python_of", "versions")

#: What the tests themselves need, in whatever version goes with the cell's.
TOOLS = ("pytest >= 8", "trustme >= 1")

#: What the table shows of an environment.
SHOWN = (
    *("celery", "kombu", "redis", "hiredis", "gevent", "eventlet", "gunicorn"),
    *("django", "sqlalchemy"),
)

#: pip's settings that uv has other names for.
SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}


class Failure(Exception):
    """A step of a cell has failed. Says which one, and shows its output."""


def _environment() -> dict[str, str]:
    """For uv: packages from where pip takes them, Pythons from this machine."""
    found = {"UV_PYTHON_DOWNLOADS": "never", "UV_INDEX_STRATEGY": "unsafe-best-match"}
    for name, value in _pip_settings():
        found.setdefault(SETTINGS[name], value)
    # Those of pyenv are on the PATH as scripts only, which do not run unless they are chosen.
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    folders = [str(folder) for folder in sorted(pyenv.glob("versions/3.*/bin"))]
    path = os.pathsep.join([*folders, os.environ.get("PATH", "")])
    return {**found, **os.environ, "PATH": path}


def _pip_settings() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in SETTINGS:
            yield name, value.strip("'\"")


ENVIRONMENT = _environment()


def run(what: str, *command: str) -> str:
    """Run *command* and return what it prints; *what* it is for is said where it fails."""
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"{what}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


#: The uv of this environment.
UV = str(Path(sys.executable).with_name("uv"))


def uv(what: str, *arguments: str) -> str:
    return run(what, UV, "--quiet", *arguments)


def interpreter(version: str) -> str | None:
    """Return the path of that Python, or of the ``newest`` there is; None: not on this machine."""
    for wanted in reversed(PYTHONS) if version == "newest" else (version,):
        try:
            return run("find it", UV, "python", "find", "--no-project", "--system", wanted)
        except Failure:
            continue
    return None


def build(folder: Path) -> Path:
    """Build the wheel of this checkout; return its path."""
    uv("build the wheel", "build", "--wheel", "--out-dir", str(folder), ".")
    return next(folder.glob("*.whl"))


def python_of(folder: Path) -> str:
    return str(folder / "bin" / "python")


def make(cell: Cell, python: str, wheel: Path, folder: Path) -> None:
    """Install *cell* into *folder*, and see that it is whole before the tests' tools come.

    From wheels alone: that it can be had without a compiler is part of what is claimed.

    :raises Failure: where it cannot be installed, or is not whole.
    """
    shutil.rmtree(folder, ignore_errors=True)
    uv("make an environment", "venv", "--python", python, str(folder))
    install = ("pip", "install", "--python", python_of(folder))
    prerelease = "allow" if cell.prereleases else "if-necessary-or-explicit"
    uv(
        "install it",
        *(*install, "--no-build", "--prerelease", prerelease, *_floors(cell, python, folder)),
        *(f"celery-green-drain[{cell.extras}] @ {wheel.as_uri()}", *cell.pins),
    )
    if cell.without:
        uv("take out", "pip", "uninstall", "--python", python_of(folder), *cell.without)
    uv("pip check", "pip", "check", "--python", python_of(folder))
    run(
        "import it with nothing else there",
        *(python_of(folder), "-W", "ignore", "-c"),
        "import celery_green_drain.backends, kombu.transport.redis, celery.backends.redis",
    )
    if cell.parts:
        kept = folder / "kept.txt"
        kept.write_text("\n".join(line for line in _frozen(folder) if " @ " not in line))
        uv("install the tests' tools", *install, "--constraint", str(kept), *TOOLS)


def _floors(cell: Cell, python: str, folder: Path) -> list[str]:
    """The floors of setup.cfg as constraints, which those of a wheel would not be to uv."""
    if not cell.floors:
        return []
    constraints = folder / "floors.txt"
    extras = [part for extra in cell.extras.split(",") for part in ("--extra", extra)]
    uv(
        "find the floors",
        *("pip", "compile", "setup.cfg", *extras, "--resolution", "lowest-direct"),
        *("--python", python, "--output-file", str(constraints)),
    )
    return ["--constraint", str(constraints)]


def _frozen(folder: Path) -> list[str]:
    return uv("list", "pip", "freeze", "--python", python_of(folder)).splitlines()


def versions(folder: Path) -> dict[str, str]:
    """What is installed in *folder*, of what the table shows, and its Python."""
    found = {"python": run("its version", python_of(folder), "-V").partition(" ")[2]}
    for line in _frozen(folder):
        name, _, version = line.partition("==")
        if name.lower() in SHOWN:
            found[name.lower()] = version
    return found
