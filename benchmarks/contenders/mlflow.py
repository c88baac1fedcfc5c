"""MLflow's scoring server."""

import json
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders.contender import BINARY, Peer, Place, Request
from benchmarks.workloads import Workload


class MLflow(Peer):
    """`mlflow models serve` with the onnx flavour."""

    name = "MLflow"
    key = "mlflow"
    what = "`mlflow models serve --env-manager local` with the onnx flavour, otherwise its defaults; its own JSON"
    environment = "mlflow"
    packages = ("mlflow", "fastapi", "uvicorn", "pandas", "numpy", "onnxruntime")
    lacks = MappingProxyType({BINARY: "it takes JSON and CSV only"})

    def settings(self, place: Place) -> Mapping[str, str]:  # noqa: ARG002
        """It tells nobody of this."""
        return {"MLFLOW_DISABLE_TELEMETRY": "true"}

    def request(self, workload: Workload, encoding: str) -> Request:  # noqa: ARG002
        """A tensor as JSON."""
        return Request.of_json("/invocations", {"inputs": workload.rows.tolist()})

    def answer(self, body: bytes, headers: Mapping[str, str]) -> NDArray[np.generic]:  # noqa: ARG002
        """All outputs by name; the first of them."""
        predictions = json.loads(body)["predictions"]
        return np.asarray(next(iter(predictions.values())))
