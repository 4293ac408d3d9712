"""The package as it is published, and environments that hold it and what a page names."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ..matrix.environments import python_of, uv

__all__ = ("Environments", "Published", "output_of")

ROOT = Path(__file__).resolve().parents[2]

#: What is in a checkout and does not belong to it.
LITTER = (".venv", ".git", ".mypy_cache", ".ruff_cache", "_build", "__pycache__", "*.egg-info")

#: Environments that are made at once: uv waits for the network, and then for the disk.
AT_ONCE = 2


def output_of(*command: str | Path, cwd: Path | None = None) -> str:
    """What *command* prints, errors included; it must succeed."""
    process = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.returncode == 0, f"{command}: {process.stdout}"
    return process.stdout


class Published:
    """The source distribution, made of a clean copy of the checkout, and the wheel made of that."""

    def __init__(self, folder: Path) -> None:
        checkout, built = folder / "checkout", folder / "dist"
        shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(*LITTER))
        output_of(sys.executable, "-m", "build", "--no-isolation", "--outdir", built, checkout)
        (self.sdist,), (self.wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
        with tarfile.open(self.sdist) as archive:
            archive.extractall(folder / "sdist")
        #: The source distribution, unpacked.
        (self.sources,) = (folder / "sdist").iterdir()


class Environments:
    """One environment for each distinct set of requirements, made beside the tests."""

    def __init__(self, folder: Path, published: Published) -> None:
        self._folder = folder
        self._wheel = published.wheel
        self._executor = ThreadPoolExecutor(AT_ONCE)
        self._made: dict[frozenset[str], Future[Path]] = {}

    def begin(self, requirements: Iterable[str]) -> Future[Path]:
        """Have the environment with *requirements* made, unless it is; the folder of programs."""
        wanted = frozenset(requirements)
        if wanted not in self._made:
            folder = self._folder / f"environment{len(self._made)}"
            self._made[wanted] = self._executor.submit(self._make, folder, sorted(wanted))
        return self._made[wanted]

    def _make(self, folder: Path, requirements: list[str]) -> Path:
        # By uv, which links what it has installed before; and without pip, which brings its own.
        uv("make an environment", "venv", "--python", sys.executable, str(folder))
        install = ("pip", "install", "--python", python_of(folder))
        uv("install", *install, str(self._wheel), *requirements)
        return folder / "bin"

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


def requirements(line: str) -> list[str]:
    """What a line ``pip install ...`` asks for."""
    pip, install, *wanted = shlex.split(line)
    assert (pip, install) == ("pip", "install"), line
    return wanted
