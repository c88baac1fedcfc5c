"""The Open Inference Protocol V2 over HTTP, as a client writes and reads it: JSON, and the binary tensor extension."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders.contender import BINARY, Request
from benchmarks.workloads import Workload

_LENGTH = "Inference-Header-Content-Length"
_DTYPES = {"FP32": "<f4", "INT64": "<i8"}


def infer(workload: Workload, encoding: str) -> Request:
    """An inference request for one row, with the answer in the same encoding."""
    path = f"/v2/models/{workload.name}/infer"
    return _binary(path, workload) if encoding == BINARY else _json(path, _tensor(workload, workload.rows.ravel()))


def infer_base64(workload: Workload) -> Request:
    """The row's bytes as base64 in one element of a JSON tensor, for a server without binary tensors."""
    raw = base64.b64encode(workload.tensor.tobytes()).decode()
    return _json(f"/v2/models/{workload.name}/infer", _tensor(workload, [raw]) | {"datatype": "BYTES"})


def answer(body: bytes, headers: Mapping[str, str]) -> NDArray[np.generic]:
    """The first output of an answer in either encoding."""
    length = int(headers.get(_LENGTH.lower(), len(body)))
    output = json.loads(body[:length])["outputs"][0]
    dtype = np.dtype(_DTYPES[output["datatype"]])
    if "data" in output:
        return np.asarray(output["data"], dtype)
    return np.frombuffer(body[length : length + output["parameters"]["binary_data_size"]], dtype)


def _tensor(workload: Workload, data: object) -> dict[str, Any]:
    values = data.tolist() if isinstance(data, np.ndarray) else data
    return {"name": "input", "shape": list(workload.rows.shape), "datatype": "FP32", "data": values}


def _json(path: str, tensor: Mapping[str, Any]) -> Request:
    return Request.of_json(path, {"inputs": [tensor]})


def _binary(path: str, workload: Workload) -> Request:
    raw = workload.tensor.astype("<f4").tobytes()
    tensor = _tensor(workload, []) | {"parameters": {"binary_data_size": len(raw)}}
    del tensor["data"]
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return Request(path, head + raw, {"Content-Type": "application/octet-stream", _LENGTH: str(len(head))})
