"""The two-node Swarm, made once for all tests here."""

import os
from collections.abc import Iterator

import pytest

from tests.harness.swarm import Lab, missing


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Both engines with all images; a machine that cannot have them skips, but never in CI."""
    reason = missing()
    if reason:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    with Lab() as running:
        yield running
