"""Row H12: what OpenAPI says of us holds for whatever it permits, and for what it does not."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.harness.client_environments import CLIENTS, python_of
from tests.harness.onnx_models import constant
from tests.harness.platform import RunningPlatform

CONFIGURATION = CLIENTS / "schemathesis" / "schemathesis.toml"
SOAK = os.environ.get("MLBUFFET_SOAK") == "1"
# The same examples in every run, and many new ones in a soak.
EXAMPLES = (
    ["--max-examples=2000", "--generation-database=none"]
    if SOAK
    else ["--max-examples=3", "--generation-deterministic"]
)
LIMIT_S = 7200 if SOAK else 300  # it takes 15 on an idle machine


# Whether bytes are a model, or a list has the shape of an input, a schema cannot say: what it permits may be refused.
# Two routes may meet at one address, whose OPTIONS then names the methods of both.
NOT_CHECKED = "positive_data_acceptance,allow_header_conformance"
DOCUMENTS = {
    "openapi.json": NOT_CHECKED,
    # The document of one model says what that model needs, not all that there is.
    "v2/models/iris.onnx/openapi.json": f"{NOT_CHECKED},negative_data_rejection,unsupported_method",
}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_h12_schemathesis_finds_no_breach_of_the_description(
    platform: RunningPlatform, tmp_path: Path, document: str
) -> None:
    program = python_of("schemathesis").with_name("st")
    # With the first key that it made, all would be over; and there is no trainer here.
    left_out = "--exclude-path-regex=^/api/v1/(keys|train/|runs)"
    options = [
        "--no-color",
        left_out,
        "--continue-on-failure",
        f"--exclude-checks={DOCUMENTS[document]}",
        *EXAMPLES,
    ]
    completed = subprocess.run(
        [program, f"--config-file={CONFIGURATION}", "run", f"{platform.url}/{document}", *options],
        cwd=tmp_path,
        timeout=LIMIT_S,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    platform.wait_ready()
    assert platform.put("afterwards", constant(7)).status_code == 201  # those that were there may be deleted
    assert platform.predict("afterwards", [[1]]).status_code == 200
