"""BentoML with one worker."""

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders.contender import BINARY, Peer, Place, Request
from benchmarks.workloads import Workload


class BentoML(Peer):
    """`bentoml serve`."""

    name = "BentoML"
    key = "bentoml"
    what = "`bentoml serve` with its defaults; its own JSON, and for the binary rows a raw body, taken as a file"
    environment = "bentoml"
    packages = ("bentoml", "starlette", "uvicorn", "pydantic", "numpy", "onnxruntime")

    def command(self, place: Place) -> list[str]:
        """Its own command."""
        options = ["--host", "127.0.0.1", "--port", place.ports["HTTP_PORT"]]
        return [str(place.python.with_name("bentoml")), "serve", "server:Predictor", *options]

    def settings(self, place: Place) -> Mapping[str, str]:  # noqa: ARG002
        """Its store goes where the rest goes."""
        return {"BENTOML_HOME": "bentos", "BENTOML_DO_NOT_TRACK": "True"}

    def request(self, workload: Workload, encoding: str) -> Request:
        """A JSON object, or the bytes."""
        if encoding == BINARY:
            return Request("/binary", workload.tensor.tobytes(), {"Content-Type": "application/octet-stream"})
        return Request.of_json("/json", {"rows": workload.rows.tolist()})

    def answer(self, body: bytes, headers: Mapping[str, str]) -> NDArray[np.generic]:  # noqa: ARG002
        """An array as JSON."""
        return np.asarray(json.loads(body))
