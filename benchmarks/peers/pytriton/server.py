"""PyTriton around ONNX Runtime: Triton's own HTTP server, its dynamic batcher."""

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from session import Session

_DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


def _function(session: Session) -> Callable[..., list[NDArray[np.generic]]]:
    """One instance of the model, which Triton calls in a thread of its own."""

    @batch
    def infer(**inputs: NDArray[np.float32]) -> list[NDArray[np.generic]]:
        answer = session.run(inputs["input"])
        return [answer if answer.ndim > 1 else answer[:, np.newaxis]]  # Triton knows no output without a second axis

    return infer


def main() -> None:
    """Serve until SIGTERM."""
    sessions = [Session() for _ in range(int(os.environ["INSTANCES"]))]
    session = sessions[0]
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=int(os.environ["HTTP_PORT"]),
        grpc_port=int(os.environ["GRPC_PORT"]),
        metrics_port=int(os.environ["METRICS_PORT"]),
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=os.environ["NAME"],
            infer_func=[_function(instance) for instance in sessions],
            inputs=[Tensor(name="input", dtype=np.float32, shape=session.input.shape[1:])],
            outputs=[Tensor(name="output", dtype=_DTYPES[session.output.type], shape=session.output.shape[1:] or [1])],
            config=ModelConfig(max_batch_size=int(os.environ["MAX_BATCH"]), batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main()
