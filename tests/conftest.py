"""Fixtures that several kinds of tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.platform import RunningPlatform, running_platform


@pytest.fixture(scope="session")
def shared_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """A platform with the sample models for tests that leave it as it was."""
    with running_platform(tmp_path_factory.mktemp("shared") / "repository") as platform:
        yield platform


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[RunningPlatform]:
    """A platform of its own with the sample models, for tests that break things."""
    with running_platform(tmp_path / "repository") as own:
        yield own
