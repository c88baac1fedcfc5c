"""The platform that all clients talk to, with a model for each datatype."""

from collections.abc import Iterator

import pytest

from tests.harness.onnx_models import identity, two_inputs
from tests.harness.platform import RunningPlatform
from tests.harness.zoo import DATATYPES, zoo_platform


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """Identity models called after their datatypes in lower case, `two`, and some that belong to one test each."""
    models = {name.lower(): identity(kind, ["N", 2]) for name, kind in DATATYPES.items()}
    models |= {"two": two_inputs(), "counted": identity(shape=["N", 2]), "spare": identity(shape=["N", 2])}
    # What is long enough to be compressed begins early, so that clients meet it in lists of a few models too.
    environment = {"INFERRER_GZIP_BYTES": "512"}
    with zoo_platform(tmp_path_factory.mktemp("clients"), models, environment=environment) as platform:
        yield platform
