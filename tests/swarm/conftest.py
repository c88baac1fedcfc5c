"""The two-node Swarm, made once for all tests here."""

import os
from collections.abc import Iterator

import pytest

from tests.harness.stack import Stack
from tests.harness.swarm import Lab, missing


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Both engines with all images; a machine that cannot have them skips, but never in CI."""
    reason = missing()
    if reason:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    with Lab() as running:
        yield running


@pytest.fixture(scope="session")
def stack(lab: Lab) -> Iterator[Stack]:
    """The stack, deployed from nothing as the README prints it, with the model of irises; each test leaves it whole."""
    with Stack(lab) as deployed:
        yield deployed
