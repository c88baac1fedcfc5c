"""Tensors as bare bytes, and back: row-major, little-endian, without gaps; a string is its length and itself.

This is the form of the Open Inference Protocol's binary tensor data extension, and of gRPC's raw contents. The runtime
exists for little-endian machines only, so that numbers stand in memory as on the wire.
"""

from math import prod
from struct import Struct

import numpy as np

from mlbuffet.errors import InvalidDatatypeError, InvalidShapeError, ModelOutputError
from mlbuffet.manifest import TensorSpec
from modelhost.codecs.request import Array
from modelhost.codecs.tensors import quoted
from modelhost.runtimes.onnx import DTYPES

_LENGTH = Struct("<I")


def from_bytes(spec: TensorSpec, shape: tuple[int, ...], data: memoryview) -> Array:
    """The array of a shape that the input takes, over the bytes themselves where their place in memory allows it.

    Raises:
        InvalidShapeError: more or fewer bytes than the shape has.
        InvalidDatatypeError: bytes that are no value of the datatype.
    """
    if spec.datatype == "BYTES":
        return _strings(spec, shape, data)
    dtype = DTYPES[spec.datatype]
    if len(data) != prod(shape) * dtype.itemsize:
        raise _wrong_size(spec, shape, len(data), f"{prod(shape) * dtype.itemsize}")
    if dtype.kind == "b" and data.tobytes().translate(None, b"\x00\x01"):
        msg = f"{quoted([spec.name])} takes bytes of 0 and 1 ({spec.datatype}); received others"
        raise InvalidDatatypeError(msg)
    array = np.frombuffer(data, dtype).reshape(shape)
    return array if array.flags.aligned else array.copy()


def _strings(spec: TensorSpec, shape: tuple[int, ...], data: memoryview) -> Array:
    """As many strings as the shape has."""
    count, size = prod(shape), len(data)
    if 4 * count > size:
        raise _wrong_size(spec, shape, size, "4 and more for each string")
    strings = np.empty(count, dtype=object)
    start = 0
    for number in range(count):
        end = start + 4
        if end <= size:
            end += _LENGTH.unpack_from(data, start)[0]
        if end > size:
            msg = f"the binary data for {quoted([spec.name])} ends within string {number} of {count}"
            raise InvalidShapeError(msg)
        strings[number] = text_of(spec, data[start + 4 : end])
        start = end
    if start != size:
        raise _wrong_size(spec, shape, size, str(start))
    return strings.reshape(shape)


def text_of(spec: TensorSpec, data: memoryview) -> str:
    """One string.

    Raises:
        InvalidDatatypeError: not UTF-8, which the runtime's strings are.
    """
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        msg = f"{quoted([spec.name])} takes strings in UTF-8 ({spec.datatype}); received other bytes"
        raise InvalidDatatypeError(msg) from None


def _wrong_size(spec: TensorSpec, shape: tuple[int, ...], received: int, expected: str) -> InvalidShapeError:
    return InvalidShapeError(
        f"the binary data for {quoted([spec.name])} has {received} bytes; "
        f"expected {expected} for {spec.datatype} of shape {list(shape)}"
    )


def to_bytes(array: Array) -> bytes | memoryview:
    """An output's bytes; not copied where they are in order already.

    Raises:
        ModelOutputError: strings that are no text.
    """
    if array.dtype.kind not in "OSU":
        return np.ascontiguousarray(array).data.cast("B") if array.size else b""
    pieces: list[bytes] = []
    try:
        for string in array.ravel().tolist():
            data = string.encode()
            pieces += (_LENGTH.pack(len(data)), data)
    except (AttributeError, UnicodeEncodeError):
        msg = "an output of the model holds what is no text"
        raise ModelOutputError(msg) from None
    return b"".join(pieces)
