"""What is published: complete, valid, and quiet where only it is installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from .environments import ROOT, Environments, Published, output_of

QUIET = """
from celery.backends import asynchronous
before = dict(asynchronous.drainers)
from celery_green_drain import *
assert watch
assert asynchronous.drainers == before
"""


def test_the_metadata(published: Published) -> None:
    checked = output_of(
        *(sys.executable, "-m", "twine", "check", "--strict"), published.sdist, published.wheel
    )
    assert checked.count("PASSED") == 2
    with zipfile.ZipFile(published.wheel) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
        metadata = wheel.read(name).decode()
        names = set(wheel.namelist())
    assert "Author: the celery_green_drain developers\n" in metadata
    assert "License-Expression: BSD-3-Clause\n" in metadata
    assert "Classifier: Framework :: Celery\n" in metadata
    files = ("py.typed", "demo/page.html", "static/task-progress.js")
    assert {f"celery_green_drain/{name}" for name in files} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "docs"))]


def test_the_source_distribution_is_all_of_it(published: Published) -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    missing = [name for name in tracked if not (published.sources / name).exists()]
    # What is for a checkout only begins with a dot.
    assert [name for name in missing if not name.startswith(".")] == []


def test_its_own_tests_run(published: Published) -> None:
    pytest = (sys.executable, "-m", "tests.launch", "unpatched", "-q")
    assert " tests collected" in output_of(*pytest, "--collect-only", cwd=published.sources)
    output_of(*pytest, "tests/test_decoding.py", cwd=published.sources)


def test_installed_alone_it_is_inert(environments: Environments, tmp_path: Path) -> None:
    programs = environments.begin(["celery-green-drain"]).result()
    assert output_of(programs / "python", "-W", "error", "-c", QUIET, cwd=tmp_path) == ""


def test_its_extra_builds_the_manual(manual: Path) -> None:
    assert (manual / "index.html").exists()
