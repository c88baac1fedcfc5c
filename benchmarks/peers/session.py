"""The ONNX session that every peer's handler runs: the same file, the same number of threads."""

import os

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray


class Session:
    """Runs the model that the environment names and gives its first output."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ["THREADS"])
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.input = self._session.get_inputs()[0]
        self.output = self._session.get_outputs()[0]
        self._names = [self.output.name]

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.generic]:
        """Predict for some rows."""
        return self._session.run(self._names, {self.input.name: rows})[0]
