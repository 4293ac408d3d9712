"""Fixtures: the package as it is published, and environments that hold it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .environments import Environments, Published, output_of


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The source distribution and the wheel."""
    return Published(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="session")
def environments(
    published: Published, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Environments]:
    """Environments with that wheel."""
    made = Environments(tmp_path_factory.mktemp("environments"), published)
    yield made
    made.close()


@pytest.fixture(scope="session")
def manual(
    environments: Environments, published: Published, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The manual as HTML, built where nothing is but what its extra installs."""
    folder = tmp_path_factory.mktemp("manual")
    programs = environments.begin(["celery-green-drain[docs]"]).result()
    sphinx = (programs / "python", "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html")
    output_of(*sphinx, published.sources / "docs", folder)
    return folder
