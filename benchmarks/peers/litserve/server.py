"""A LitServe API around ONNX Runtime: rows as JSON, or as base64 within JSON."""

import base64
import os
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray
from session import Session


class Predictor(litserve.LitAPI):
    """One ONNX session."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - theirs
        """Build the session in the worker."""
        self._run = Session()
        self._shape = [-1, *self._run.input.shape[1:]]

    def decode_request(self, request: dict[str, Any]) -> NDArray[np.float32]:
        """Rows from a body."""
        if "raw" in request:
            return np.frombuffer(base64.b64decode(request["raw"]), np.float32).reshape(self._shape)
        return np.asarray(request["rows"], np.float32)

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.generic]:
        """Run one request."""
        return self._run.run(x)

    def encode_response(self, output: NDArray[np.generic]) -> dict[str, Any]:
        """Numbers for JSON."""
        return {"answer": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Predictor(), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(os.environ["HTTP_PORT"]), generate_client_file=False)
