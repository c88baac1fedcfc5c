"""A BentoML service around ONNX Runtime: rows as JSON, or as the bytes of a file."""

from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import DType
from session import Session

Rows = Annotated[np.ndarray, DType("float32")]


@bentoml.service
class Predictor:
    """One ONNX session. The methods are coroutines: a thread for each request would only add to its cost."""

    def __init__(self) -> None:
        self._run = Session()
        self._shape = [-1, *self._run.input.shape[1:]]

    @bentoml.api
    async def json(self, rows: Rows) -> np.ndarray:
        """Numbers as JSON."""
        return self._run.run(rows)

    @bentoml.api
    async def binary(self, rows: Path, /) -> np.ndarray:
        """BentoML hands a raw body over as a file."""
        return self._run.run(np.fromfile(rows, np.float32).reshape(self._shape))
