"""LitServe with one worker."""

import base64
import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders.contender import BINARY, Peer, Request
from benchmarks.workloads import Workload


class LitServe(Peer):
    """A `LitServer` with its defaults."""

    name = "LitServe"
    key = "litserve"
    what = "`LitServer` with its defaults; its own JSON, and for the binary rows base64 in JSON: it takes no raw body"
    environment = "litserve"
    packages = ("litserve", "torch", "fastapi", "uvicorn", "uvloop", "numpy", "onnxruntime")

    def request(self, workload: Workload, encoding: str) -> Request:
        """A JSON object."""
        if encoding == BINARY:
            body = {"raw": base64.b64encode(workload.tensor.tobytes()).decode()}
        else:
            body = {"rows": workload.rows.tolist()}
        return Request.of_json("/predict", body)

    def answer(self, body: bytes, headers: Mapping[str, str]) -> NDArray[np.generic]:  # noqa: ARG002
        """A field of a JSON object."""
        return np.asarray(json.loads(body)["answer"])
