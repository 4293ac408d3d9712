"""Fixtures: the package as it is published, and environments that hold it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .environments import Environments, Published


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
