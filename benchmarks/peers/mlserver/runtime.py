"""An MLServer runtime for ONNX files, as lean as its API allows: decode, run, encode."""

import base64

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput
from numpy.typing import NDArray
from session import Session


class OnnxRuntime(MLModel):
    """One ONNX session."""

    async def load(self) -> bool:
        """Build the session."""
        self._run = Session()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run one request."""
        answer = self._run.run(_rows(payload.inputs[0]))
        output = NumpyCodec.encode_output(self._run.output.name, answer)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])


def _rows(tensor: RequestInput) -> NDArray[np.float32]:
    """Numbers as JSON; or, since MLServer has no binary tensors over REST, bytes as base64 within JSON."""
    if tensor.datatype != "BYTES":
        return NumpyCodec.decode_input(tensor)
    raw = base64.b64decode(tensor.data.root[0])
    return np.frombuffer(raw, np.float32).reshape(tensor.shape)
