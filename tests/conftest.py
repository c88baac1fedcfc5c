"""Fixtures that several kinds of tests share."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.harness.alone import turn
from tests.harness.platform import RunningPlatform, running_platform
from tests.harness.swarm import Lab, missing

# Row Z06: the same examples in every run, and many new ones in a soak.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("many", deadline=None, max_examples=10_000)
settings.load_profile("many" if os.environ.get("MLBUFFET_SOAK") == "1" else "same")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put those that run alone last: so nobody waits for them but each other."""
    items.sort(key=_is_alone)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Keep other processes' tests away from one that runs alone, its fixtures included."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    with turn(alone=_is_alone(item)):
        return (yield)


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


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


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Both engines with all images; a machine that cannot have them skips, but never in CI."""
    reason = missing()
    if reason:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    with Lab() as running:
        yield running
