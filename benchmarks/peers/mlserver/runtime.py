"""An MLServer runtime for ONNX files, as lean as its API allows: decode, run, encode."""

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class OnnxRuntime(MLModel):
    """One ONNX session with one thread, like a runner of ours; answers the first output unless others are named."""

    async def load(self) -> bool:
        """Build the session."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        path = await get_model_uri(self.settings)
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._first = [self._session.get_outputs()[0].name]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run one request."""
        feeds = {item.name: NumpyCodec.decode_input(item) for item in payload.inputs}
        names = [item.name for item in payload.outputs] if payload.outputs else self._first
        arrays = self._session.run(names, feeds)
        outputs = [NumpyCodec.encode_output(name, array) for name, array in zip(names, arrays, strict=True)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
