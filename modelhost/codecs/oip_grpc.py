"""V2 over gRPC: a ModelInferRequest to named arrays, and outputs back to a ModelInferResponse.

Tensors come as raw bytes or as typed contents, in one request all in one of the two ways. They go back as raw bytes, as
Triton's do: there are no typed contents for FP16.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from math import prod
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from mlbuffet.errors import BadRequestError, InvalidDatatypeError, InvalidShapeError, ModelOutputError
from mlbuffet.manifest import TensorSpec
from mlbuffet.oip.inference_pb2 import InferTensorContents, ModelInferRequest, ModelInferResponse
from modelhost.codecs.binary import from_bytes, text_of, to_bytes
from modelhost.codecs.oip_rules import check_datatype, check_parameters, check_shape, named_inputs, named_outputs
from modelhost.codecs.request import Answer, Array, Decoded, Served
from modelhost.codecs.tensors import quoted
from modelhost.runtimes.onnx import DTYPES

_TYPED = {
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
} | {f"{sign}INT{bits}": f"{sign.lower()}int_contents" for sign in ("", "U") for bits in (8, 16, 32)}
_RAW_TAG = b"\x32"  # field 6, raw_output_contents, with a length
_BYTE = 0x80


def decode(body: memoryview, split: int, served: Served) -> Decoded:  # noqa: ARG001 - a codec's signature
    """Read a request.

    Raises:
        BadRequestError: not what the protocol, or the model, takes.
        ModelOutputError: an output that is asked for is no tensor.
    """
    try:
        request = ModelInferRequest.FromString(bytes(body))
    except DecodeError:
        msg = "the message is not a ModelInferRequest, or takes more memory than there is"
        raise BadRequestError(msg) from None
    specs = named_inputs([tensor.name for tensor in request.inputs], served.signature)
    for spec, tensor in zip(specs, request.inputs, strict=True):
        check_datatype(spec, tensor.datatype)
        check_shape(spec, tensor.shape)
        check_parameters(tensor.parameters)
    wanted = named_outputs([output.name for output in request.outputs], served.signature)
    for output in request.outputs:
        check_parameters(output.parameters)
    found = (_raw_feeds if request.raw_input_contents else _typed_feeds)(specs, request)
    feeds = {spec.name: found[spec.name] for spec in served.signature.inputs}  # what runs together has one order
    return Decoded(feeds, tuple(spec.name for spec in wanted), partial(_encode, served, request.id, wanted))


def _raw_feeds(specs: Sequence[TensorSpec], request: ModelInferRequest) -> dict[str, Array]:
    """Each input's array, out of raw bytes in the order of the inputs.

    Raises:
        BadRequestError: not as many as there are inputs, or typed contents beside them.
        InvalidShapeError, InvalidDatatypeError: not what the input takes.
    """
    inputs, raw = request.inputs, request.raw_input_contents
    typed = [tensor.name for tensor in inputs if tensor.HasField("contents")]
    if typed or len(raw) != len(inputs):
        msg = (
            f"raw_input_contents are those of all {len(inputs)} inputs, or none are given; received {len(raw)}, "
            f"and typed contents of {quoted(typed)}"
        )
        raise BadRequestError(msg)
    return {
        spec.name: from_bytes(spec, tuple(tensor.shape), memoryview(data))
        for spec, tensor, data in zip(specs, inputs, raw, strict=True)
    }


def _typed_feeds(specs: Sequence[TensorSpec], request: ModelInferRequest) -> dict[str, Array]:
    """Each input's array, out of the contents for its datatype.

    Raises:
        InvalidShapeError, InvalidDatatypeError: not what the input takes.
    """
    feeds = {}
    for spec, tensor in zip(specs, request.inputs, strict=True):
        shape = tuple(tensor.shape)
        array = _elements(spec, tensor.contents)
        if array.size != prod(shape):
            msg = f"{quoted([spec.name])} is said to have the shape {list(shape)}; it has {array.size} elements"
            raise InvalidShapeError(msg)
        feeds[spec.name] = array.reshape(shape)
    return feeds


def _elements(spec: TensorSpec, contents: InferTensorContents) -> Array:
    """An input's elements, out of the one field that its datatype has.

    Raises:
        InvalidDatatypeError: others are filled, or a value is beyond the datatype's range.
    """
    field = _TYPED.get(spec.datatype)
    filled = [descriptor.name for descriptor, _ in contents.ListFields()]
    if field is None or filled not in ([], [field]):
        msg = (
            f"{quoted([spec.name])} ({spec.datatype}) takes {field or 'raw_input_contents'}; received {quoted(filled)}"
        )
        raise InvalidDatatypeError(msg)
    values = getattr(contents, field)
    if spec.datatype == "BYTES":
        strings = np.empty(len(values), dtype=object)
        strings[:] = [text_of(spec, memoryview(value)) for value in values]
        return strings
    array: Array = np.array(values)  # of the field's own type, without an object for each number
    target = DTYPES[spec.datatype]
    if array.dtype != target and array.size:
        limits = np.iinfo(target)
        if array.min() < limits.min or array.max() > limits.max:
            msg = f"a value for {quoted([spec.name])} is beyond the range of {spec.datatype}"
            raise InvalidDatatypeError(msg)
    return array.astype(target, copy=False)


def _encode(served: Served, request_id: str, wanted: Sequence[TensorSpec], outputs: Sequence[Any]) -> Answer:
    """The whole answer; protobuf's messages may be written one part after another.

    Raises:
        ModelOutputError: an output has no form in the protocol.
    """
    head = ModelInferResponse(model_name=served.name, model_version=str(served.version), id=request_id)
    described: list[bytes] = [head.SerializeToString()]
    contents: list[bytes | memoryview] = []
    for spec, output in zip(wanted, outputs, strict=True):
        if not isinstance(output, np.ndarray):
            msg = f"the output {quoted([spec.name])} is no tensor but {spec.datatype}"
            raise ModelOutputError(msg)
        described.append(_described(spec.name, spec.datatype, output.shape))
        data = to_bytes(output)
        contents += (_RAW_TAG + _varint(len(data)), data)
    return Answer((b"".join(described), *contents))


@lru_cache(256)
def _described(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """What an answer says of one output."""
    output = ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=shape)
    written: bytes = ModelInferResponse(outputs=[output]).SerializeToString()
    return written


def _varint(number: int) -> bytes:
    """A length as protobuf writes it."""
    out = bytearray()
    while number >= _BYTE:
        out.append(number & 0x7F | _BYTE)
        number >>= 7
    return bytes((*out, number))
