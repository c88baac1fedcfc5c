"""Which outputs an Open Inference Protocol request wants, and the answer: JSON, and the bytes of those wanted so.

NaN and infinities are null in JSON (docs/adr/0010-nan-as-null.md); in bytes they are what they are.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from mlbuffet.errors import BadRequestError, InvalidOutputError, ModelOutputError
from mlbuffet.manifest import Signature, TensorSpec
from modelhost.codecs.binary import to_bytes
from modelhost.codecs.oip_fields import Object, check, optional, parameter, required
from modelhost.codecs.request import Answer, Array, Served
from modelhost.codecs.tensors import quoted
from modelhost.codecs.together import rows_of
from modelhost.runtimes.onnx import DTYPES

_NOT_SERVED = ("classification", "shared_memory_region")


class Wanted(NamedTuple):
    """An output to be answered, as bytes or in JSON, and how its JSON begins."""

    name: str
    binary: bool
    opening: bytes


def read_wanted(request: Object, signature: Signature) -> list[Wanted]:
    """The outputs that a request asks for, or all.

    Raises:
        BadRequestError: a field is missing or mistyped, or asks for what is not served.
        InvalidOutputError: an unknown or repeated name.
        ModelOutputError: an output that is asked for is no tensor.
    """
    binary = bool(parameter(request, "binary_data_output", bool))
    asked = optional(request, "outputs", list, "the request")
    if not asked:
        return all_outputs(signature, binary=binary)
    known = {spec.name: spec for spec in signature.outputs}
    wanted: dict[str, Wanted] = {}
    for item in asked:
        check(item, dict, "an output")
        name = required(item, "name", str, "an output")
        if name not in known or name in wanted:
            msg = f"the outputs are {quoted(known)}, each at most once; received {quoted([name])}"
            raise InvalidOutputError(msg)
        if known[name].datatype not in DTYPES:
            raise _no_tensor(name)
        wanted[name] = _wanted(known[name], binary=_as_bytes(item, default=binary))
    return list(wanted.values())


def all_outputs(signature: Signature, *, binary: bool) -> list[Wanted]:
    """Every output that is a tensor, in the model's order.

    Raises:
        ModelOutputError: there is none.
    """
    wanted = [_wanted(spec, binary=binary) for spec in signature.outputs if spec.datatype in DTYPES]
    if not wanted:
        msg = "no output of the model is a tensor"
        raise ModelOutputError(msg)
    return wanted


def _wanted(spec: TensorSpec, *, binary: bool) -> Wanted:
    opening = b'{"name":' + orjson.dumps(spec.name) + b',"datatype":' + orjson.dumps(spec.datatype) + b',"shape":'
    return Wanted(spec.name, binary, opening)


def _as_bytes(output: Object, *, default: bool) -> bool:
    """Tell whether an output is to be answered as bytes."""
    binary: bool | None = parameter(output, "binary_data", bool)
    for name in _NOT_SERVED:
        if parameter(output, name) is not None:
            msg = f"the parameter {name} is of an extension that is not served here"
            raise BadRequestError(msg)
    return default if binary is None else binary


def opening_of(served: Served, request_id: str | None) -> bytes:
    """How an answer begins."""
    about = {"model_name": served.name, "model_version": str(served.version)}
    if request_id is not None:
        about["id"] = request_id
    return orjson.dumps(about)[:-1] + b',"outputs":['


def encode(opening: bytes, wanted: Sequence[Wanted], outputs: Sequence[Any]) -> Answer:
    """The whole answer; `outputs` in the order of `wanted`.

    Raises:
        ModelOutputError: an output has no form in the protocol.
    """
    tensors: list[bytes | memoryview] = []
    told = []
    for (name, binary, begin), array in zip(wanted, outputs, strict=True):
        if not isinstance(array, np.ndarray):
            raise _no_tensor(name)
        if binary:
            tensors.append(to_bytes(array))
            value = b',"parameters":{"binary_data_size":%d}}' % len(tensors[-1])
        else:
            value = b',"data":' + _dump(array) + b"}"
        told.append(begin + orjson.dumps(array.shape) + value)
    body = opening + b",".join(told) + b"]}"
    return Answer((body, *tensors), len(body) if tensors else 0)


def encode_rows(opening: bytes, wanted: Sequence[Wanted], outputs: Sequence[Any]) -> Sequence[Answer]:
    """The answers of requests that each have one row of the outputs; nothing where each is to be made alone."""
    said: list[Sequence[bytes]] = []
    tensors: list[Sequence[memoryview]] = []
    for (_, binary, begin), array in zip(wanted, outputs, strict=True):
        bare, texts = (_rows_in_bytes(array), ()) if binary else ((), rows_of(array))
        if not (bare or texts):
            return ()
        row = begin + orjson.dumps((1, *array.shape[1:]))
        if bare:
            tensors.append(bare)
            said.append([b'%b,"parameters":{"binary_data_size":%d}}' % (row, len(bare[0]))] * len(bare))
        else:
            said.append([b'%b,"data":[%b]}' % (row, text.translate(None, b"[]")) for text in texts])
    bodies = [opening + b",".join(one) + b"]}" for one in zip(*said, strict=True)]
    return [Answer((body, *bare), len(body) if tensors else 0) for body, *bare in zip(bodies, *tensors, strict=True)]


def _rows_in_bytes(output: Any) -> Sequence[memoryview]:  # noqa: ANN401 - whatever a model gives
    """Each row in bytes; nothing where rows are not of one size."""
    if not isinstance(output, np.ndarray) or output.dtype.kind in "OSU" or not output.ndim or not output.size:
        return ()
    data = memoryview(to_bytes(output))
    size = len(data) // len(output)
    return [data[start : start + size] for start in range(0, len(data), size)]


def _dump(array: Array) -> bytes:
    """The elements, row after row."""
    flat = array.reshape(-1)
    try:
        if array.dtype.kind in "OSU":
            return orjson.dumps(flat.tolist())
        return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        msg = f"an output of the model cannot be written as JSON: {error}"
        raise ModelOutputError(msg) from None


def _no_tensor(name: str) -> ModelOutputError:
    return ModelOutputError(f"the output {quoted([name])} is no tensor, the only thing that this protocol has")
