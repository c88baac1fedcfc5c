"""The two-node Swarm, made once for all tests here."""

from collections.abc import Iterator

import pytest

from tests.harness.stack import Stack
from tests.harness.swarm import Lab


@pytest.fixture(scope="session")
def stack(lab: Lab) -> Iterator[Stack]:
    """The stack, deployed from nothing as the README prints it, with the model of irises; each test leaves it whole."""
    with Stack(lab) as deployed:
        yield deployed
