"""The two-node Swarm, made once for all tests here."""

import os
from collections.abc import Iterator

import pytest

from tests.harness.platform import SAMPLES
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
    """The stack, deployed from nothing, with the sample model of irises; each test leaves it whole."""
    with Stack(lab) as deployed:
        deployed.put("iris.onnx", (SAMPLES / "iris.onnx/1/model.onnx").read_bytes()).raise_for_status()
        yield deployed
