"""Nested lists, as JSON has them, to the array that a model's input takes.

Values are converted only without loss: a number where a number belongs, true and false only for booleans, strings only
for strings; a fraction for an integer input is an error.
"""

import heapq
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from mlbuffet.errors import InvalidDatatypeError, InvalidShapeError
from mlbuffet.manifest import TensorSpec
from modelhost.codecs.request import Array
from modelhost.runtimes.onnx import DTYPES

_WORDS = {"BOOL": "true or false", "BYTES": "strings"}
_BOOLEAN_TYPES, _NUMBER_TYPES = frozenset({bool}), frozenset({int, float})
_MOST_RANK = 64  # numpy's own bound
_EXACT = 1 << 53  # whole numbers below are all floats too
_SHOWN, _SHOWN_CHARACTERS = 5, 80


def to_array(spec: TensorSpec, value: Any, *, plain: bool) -> Array:  # noqa: ANN401 - JSON of any shape
    """A nested list of the input's type as an array; `plain` where it is known to hold numbers only.

    Raises:
        InvalidShapeError, InvalidDatatypeError: ragged, or not of that type.
    """
    if spec.datatype == "BYTES":
        return _strings(spec, value)
    if not plain and type(value) is not np.ndarray:
        allowed = _BOOLEAN_TYPES if spec.datatype == "BOOL" else _NUMBER_TYPES
        if other := _other_leaf(value, allowed):
            raise _datatype_error(spec, other)
    try:
        array = np.asarray(value)
    except ValueError:
        raise _ragged(spec) from None
    return _convert(spec, array, value)


def fit_shape(spec: TensorSpec, array: Array) -> Array:
    """The array with the input's rank; one observation becomes a batch of one.

    Raises:
        InvalidShapeError: its shape is not the input's.
    """
    shape = spec.shape
    fitted = array
    if array.ndim == len(shape) - 1 and array.ndim < _MOST_RANK:
        fitted = array[np.newaxis]
    if fitted.ndim == len(shape):
        for received, expected in zip(fitted.shape, shape, strict=True):
            if expected is not None and received != expected:
                break
        else:
            return fitted
    msg = f"the values for {quoted([spec.name])} have the shape {list(array.shape)}; expected {axes(shape)}"
    if shape:
        msg += f" or, for one observation, {axes(shape[1:])}"
    raise InvalidShapeError(msg)


def _strings(spec: TensorSpec, value: object) -> Array:
    """A nested list of strings as an array of them."""
    try:
        array = np.array(value, dtype=object)
    except ValueError:
        raise _ragged(spec) from None
    wrong = next((item for item in array.ravel() if type(item) is not str), "")
    if type(wrong) is list:
        raise _ragged(spec)
    if type(wrong) is not str:
        raise _datatype_error(spec, json_type(wrong))
    return array


def _convert(spec: TensorSpec, array: Array, value: object) -> Array:
    """The array in the input's datatype, if nothing is lost."""
    kind, target = array.dtype.kind, DTYPES[spec.datatype]
    if not array.size:
        return array.astype(target)  # an empty list is of any type
    if target.kind == "b":
        if kind != "b":
            raise _datatype_error(spec, _other_leaf(value, _BOOLEAN_TYPES))
        return array
    if kind not in "iuf":
        raise _datatype_error(spec, _other_leaf(value, _NUMBER_TYPES))
    if target.kind != "f":
        return _to_integers(spec, array, value)
    try:
        return array.astype(target)
    except FloatingPointError:
        raise _beyond(spec) from None


def _to_integers(spec: TensorSpec, array: Array, value: object) -> Array:
    """Whole numbers in range, whether they were written 5 or 5.0."""
    target = DTYPES[spec.datatype]
    limits = np.iinfo(target)
    if array.dtype.kind == "f":
        if (array != np.trunc(array)).any():
            raise _datatype_error(spec, "fractions")
        if np.abs(array).max() >= _EXACT:
            # Among floats, and where no integer type holds them all, numpy rounds whole numbers: Python does not.
            array = np.array(np.frompyfunc(int, 1, 1)(np.array(value, dtype=object)))
    if array.min() < limits.min or array.max() > limits.max:
        raise _beyond(spec)
    return array.astype(target)


def _other_leaf(value: object, allowed: frozenset[type]) -> str:
    """What stands in a nested list beside the types allowed, in words; empty when nothing does."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if type(item) is list:
            waiting.extend(item)
        elif type(item) not in allowed:
            return json_type(item)
    return ""


def _datatype_error(spec: TensorSpec, received: str) -> InvalidDatatypeError:
    expected = _WORDS.get(spec.datatype, "whole numbers" if "INT" in spec.datatype else "numbers")
    return InvalidDatatypeError(f"{quoted([spec.name])} takes {expected} ({spec.datatype}); received {received}")


def _ragged(spec: TensorSpec) -> InvalidShapeError:
    return InvalidShapeError(
        f"the values for {quoted([spec.name])} are not a rectangular array; expected {axes(spec.shape)}"
    )


def _beyond(spec: TensorSpec) -> InvalidDatatypeError:
    return InvalidDatatypeError(f"a value for {quoted([spec.name])} is beyond the range of {spec.datatype}")


def json_type(value: object) -> str:
    """What a value is in JSON's words."""
    words = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return words.get(type(value), "a number")


def axes(shape: Sequence[int | None]) -> str:
    """An input's shape in words."""
    return "[" + ", ".join("any" if axis is None else str(axis) for axis in shape) + "]"


def quoted(names: Collection[str]) -> str:
    """Names for a message: printable, cut off, and only the first few of many."""
    shown = ", ".join(f"{name[:_SHOWN_CHARACTERS]!a}" for name in heapq.nsmallest(_SHOWN, names))
    return (shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")) or "nothing"
