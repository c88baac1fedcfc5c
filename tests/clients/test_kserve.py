"""The inference client of KServe's SDK."""

import pytest

from tests.harness.client_environments import run_suite
from tests.harness.platform import RunningPlatform


@pytest.mark.parametrize("suite", ["rest.py", "grpc_client.py"])
def test_kserve_sdk(served: RunningPlatform, suite: str) -> None:
    run_suite("kserve", suite, served)
