"""A KServe model around ONNX Runtime, as lean as its API allows; settings come from the command line."""

import os

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from session import Session

_DATATYPES = {"float32": "FP32", "int64": "INT64"}


class OnnxModel(Model):
    """One ONNX session, built in the worker that uses it: a session cannot travel to another process."""

    def __init__(self) -> None:
        super().__init__(os.environ["NAME"])
        self._run: Session | None = None
        self.ready = True

    async def predict(self, payload: InferRequest, headers: object = None, response_headers: object = None) -> object:  # noqa: ARG002 - theirs
        """Run one request."""
        if self._run is None:
            self._run = Session()
        answer = self._run.run(payload.inputs[0].as_numpy())
        output = InferOutput(self._run.output.name, list(answer.shape), _DATATYPES[str(answer.dtype)])
        binary = payload.use_binary_outputs
        output.set_data_from_numpy(answer, binary_data=binary)
        return InferResponse(payload.id or "", self.name, [output], use_binary_outputs=binary)


if __name__ == "__main__":
    ModelServer().start([OnnxModel()])
