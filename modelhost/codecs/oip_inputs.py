"""Reads which inputs an Open Inference Protocol request gives, of what shape, and where their values stand."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlbuffet.errors import (
    BadRequestError,
    InvalidShapeError,
    MissingInputError,
    UnknownInputError,
)
from mlbuffet.manifest import TensorSpec
from modelhost.codecs.oip_fields import Object, check, parameter, required
from modelhost.codecs.oip_rules import check_datatype, check_shape
from modelhost.codecs.tensors import axes, json_type, quoted


class Input(NamedTuple):
    """An input's shape, and its place: which of the values in the JSON, or -1 and the bytes' behind it."""

    spec: TensorSpec
    shape: tuple[int, ...]
    place: int
    start: int = 0
    end: int = 0


def read_inputs(request: Object, specs: Sequence[TensorSpec]) -> tuple[list[Input], list[Any], int]:
    """The inputs in the order of `specs`, the values, which are taken out of the request, and how many bytes follow it.

    Raises:
        BadRequestError: a field is missing or mistyped, or an input stands twice.
        InvalidShapeError, InvalidDatatypeError, UnknownInputError, MissingInputError: not what the model takes.
    """
    known = {spec.name: spec for spec in specs}
    found: dict[str, Input] = {}
    data: list[Any] = []
    size_bytes = 0
    for item in required(request, "inputs", list, "the request"):
        spec = _spec(item, known)
        if spec.name in found:
            msg = f"each input stands once in 'inputs'; received {quoted([spec.name])} again"
            raise BadRequestError(msg)
        shape = _shape(spec, required(item, "shape", list, "an input"))
        values, size = _values(item, spec)
        if values is None:
            found[spec.name] = Input(spec, shape, -1, size_bytes, size_bytes + size)
            size_bytes += size
        else:
            found[spec.name] = Input(spec, shape, len(data))
            data.append(values)
    if len(found) != len(known):
        msg = f"no values for the inputs {quoted(known.keys() - found.keys())}"
        raise MissingInputError(msg)
    return [found[name] for name in known], data, size_bytes


def _spec(item: Any, known: Mapping[str, TensorSpec]) -> TensorSpec:  # noqa: ANN401 - any JSON
    """The model's input that an input is for."""
    check(item, dict, "an input")
    name = required(item, "name", str, "an input")
    if name not in known:
        msg = f"the inputs are {quoted(known)}; received {quoted([name])}"
        raise UnknownInputError(msg)
    spec = known[name]
    check_datatype(spec, required(item, "datatype", str, "an input"))
    return spec


def _shape(spec: TensorSpec, received: list[Any]) -> tuple[int, ...]:
    """The shape, if it is one that the input takes."""
    wrong = next((length for length in received if type(length) is not int), 0)
    if type(wrong) is not int:
        msg = f"{quoted([spec.name])} has the shape {axes(spec.shape)}; received {json_type(wrong)} as a length"
        raise InvalidShapeError(msg)
    check_shape(spec, received)
    return tuple(received)


def _values(item: Object, spec: TensorSpec) -> tuple[list[Any] | None, int]:
    """The values in the JSON, or how many bytes behind it they are."""
    size_bytes = parameter(item, "binary_data_size", int)
    values = item.pop("data", None)
    if (values is None) == (size_bytes is None):
        msg = f"the values of {quoted([spec.name])} stand either in 'data' or, binary_data_size bytes, behind the JSON"
        raise BadRequestError(msg)
    if values is None and size_bytes < 0:
        msg = f"binary_data_size is 0 or more; received {size_bytes}"
        raise BadRequestError(msg)
    if values is not None:
        check(values, list, f"the data of {quoted([spec.name])}")
    return values, size_bytes or 0
