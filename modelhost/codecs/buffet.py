"""V1 JSON: `{"values": …}` to named arrays, and outputs back to `{"values": …}`.

Values are converted only without loss: a number where a number belongs, true and false only for booleans, strings only
for strings; a fraction for an integer input is an error. NaN and infinities, which JSON does not have, are refused on
the way in and written as null on the way out.
"""

import heapq
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from mlbuffet.errors import (
    InvalidDatatypeError,
    InvalidJSONError,
    InvalidOutputError,
    InvalidShapeError,
    MissingInputError,
    ModelOutputError,
    UnknownInputError,
    UnprocessableError,
)
from mlbuffet.manifest import Signature, TensorSpec
from modelhost.runtimes.onnx import DTYPES

Array = np.ndarray[Any, Any]

_PREFIX = b'{"http_status":{"code":200,"name":"OK","description":"Request fulfilled, document follows"},"values":'
_DUMP = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_WORDS = {"BOOL": "true or false", "BYTES": "strings"}
_BOOLEAN_TYPES, _NUMBER_TYPES = frozenset({bool}), frozenset({int, float})
_SHOWN = 5
_MOST_RANK = 64  # numpy's own bound
_EXACT = 1 << 53  # whole numbers below are all floats too


class Wanted(NamedTuple):
    """Which outputs go into the answer: the first one as `values`, and those asked for by name."""

    names: tuple[str, ...]
    by_name: bool


def decode(body: memoryview, signature: Signature) -> tuple[dict[str, Array], Wanted]:
    """Read a request.

    Raises:
        InvalidJSONError: not JSON.
        UnprocessableError: no `values`, or not a list or an object.
        InvalidShapeError, InvalidDatatypeError, UnknownInputError, MissingInputError, InvalidOutputError: not what the
            model takes or gives.
    """
    text = bytes(body)
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        msg = f"the body is not JSON: {error}"
        raise InvalidJSONError(msg) from None
    values = _values(data)
    plain = _is_plain(text, data, values)
    inputs = signature.inputs
    if type(values) is list:
        if len(inputs) != 1:
            names = ", ".join(spec.name for spec in inputs)
            msg = f"the model has {len(inputs)} inputs: give 'values' as an object with {names}"
            raise MissingInputError(msg)
        feeds = {inputs[0].name: to_array(inputs[0], values, plain=plain)}
    else:
        feeds = _named(values, inputs, plain=plain)
    return feeds, wanted_outputs(data.get("outputs"), signature)


def _values(data: object) -> Any:  # noqa: ANN401 - JSON of any shape
    if type(data) is not dict:
        msg = f'the body is an object {{"values": …}}; received {_json_type(data)}'
        raise UnprocessableError(msg)
    if "values" not in data:
        msg = f"the field 'values' is missing; received {_names(data)}"
        raise UnprocessableError(msg)
    if len(data) > 1 and data.keys() - {"values", "outputs"}:
        msg = f"the fields are values and outputs; received {_names(data.keys() - {'values', 'outputs'})}"
        raise UnprocessableError(msg)
    values = data["values"]
    if type(values) not in {list, dict}:
        msg = f"'values' is a list or an object; received {_json_type(values)}"
        raise UnprocessableError(msg)
    return values


def _is_plain(text: bytes, data: Mapping[str, Any], values: Any) -> bool:  # noqa: ANN401 - JSON of any shape
    """Tell from the text alone that all values are numbers, as in nearly every request; else they are looked through.

    That is for numpy's sake: it makes numbers of booleans among numbers without a word, and of strings an array as wide
    as the longest of them.

    Raises:
        InvalidJSONError: a name stands twice in an object; the parser keeps the last one.
    """
    outputs = data.get("outputs")
    names = len(data) + (len(values) if type(values) is dict else 0)
    names += len(outputs) if type(outputs) is list else type(outputs) is str
    if text.count(b'"') == 2 * names:
        return b"true" not in text and b"false" not in text
    try:
        json.loads(text, object_pairs_hook=_refuse_repeated)
    except RecursionError:
        msg = "the body is nested too deep"
        raise InvalidJSONError(msg) from None
    return False


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> None:
    names = Counter(name for name, _ in pairs)
    if len(names) < len(pairs):
        msg = f"in one object each name stands once; received {_names(names - Counter(names.keys()))} again"
        raise InvalidJSONError(msg)


def _named(values: Mapping[str, Any], inputs: Sequence[TensorSpec], *, plain: bool) -> dict[str, Array]:
    known = {spec.name for spec in inputs}
    if values.keys() - known:
        msg = f"the inputs are {_names(known)}; received {_names(values.keys() - known)}"
        raise UnknownInputError(msg)
    if known - values.keys():
        msg = f"no values for the inputs {_names(known - values.keys())}"
        raise MissingInputError(msg)
    return {spec.name: to_array(spec, values[spec.name], plain=plain) for spec in inputs}


def wanted_outputs(asked: object, signature: Signature) -> Wanted:
    """Which outputs a request asks for: none named, some by name, or "all".

    Raises:
        InvalidOutputError: an unknown or repeated name.
        UnprocessableError: neither "all" nor a list of strings.
    """
    if asked is None:
        return Wanted((signature.outputs[0].name,), by_name=False)
    names = tuple(spec.name for spec in signature.outputs)
    if asked == "all":
        return Wanted(names, by_name=True)
    if not isinstance(asked, list) or not asked or not all(isinstance(name, str) for name in asked):
        msg = "'outputs' is \"all\" or a list of output names"
        raise UnprocessableError(msg)
    wrong = set(asked).difference(names) or {name for name, count in Counter(asked).items() if count > 1}
    if wrong:
        msg = f"the outputs are {_names(names)}, each at most once; received {_names(wrong)}"
        raise InvalidOutputError(msg)
    return Wanted(tuple(asked), by_name=True)


def to_array(spec: TensorSpec, value: Any, *, plain: bool) -> Array:  # noqa: ANN401 - JSON of any shape
    """A nested list as the input's array; one observation becomes a batch of one.

    Raises:
        InvalidShapeError, InvalidDatatypeError: not what the input takes.
    """
    if spec.datatype == "BYTES":
        return fit_shape(spec, _strings(spec, value))
    allowed = _BOOLEAN_TYPES if spec.datatype == "BOOL" else _NUMBER_TYPES
    if not plain and (other := _other_leaf(value, allowed)):
        raise _datatype_error(spec, other)
    try:
        array = np.asarray(value)
    except ValueError:
        raise _ragged(spec) from None
    return fit_shape(spec, _convert(spec, array, value))


def fit_shape(spec: TensorSpec, array: Array) -> Array:
    """The array with the input's rank.

    Raises:
        InvalidShapeError: its shape is not the input's.
    """
    shape = spec.shape
    if shape and array.shape == shape[1:] and shape[0] in {None, 1}:
        return array[np.newaxis]
    fitted = array[np.newaxis] if array.ndim == len(shape) - 1 and array.ndim < _MOST_RANK else array
    if fitted.ndim == len(shape):
        for received, expected in zip(fitted.shape, shape, strict=True):
            if expected is not None and received != expected:
                break
        else:
            return fitted
    msg = f"the values for {spec.name!a} have the shape {list(array.shape)}; expected {_shape(shape)}"
    if shape:
        msg += f" or, for one observation, {_shape(shape[1:])}"
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
        raise _datatype_error(spec, _json_type(wrong))
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
            array = np.array(np.frompyfunc(_whole, 1, 1)(np.array(value, dtype=object)))
    if array.min() < limits.min or array.max() > limits.max:
        raise _beyond(spec)
    return array.astype(target)


def _whole(number: float) -> int:
    """A whole number exactly; what is beyond 64 bits comes as a float, and just below the least of them as that one."""
    return int(number) - (type(number) is float and number == -(2.0**63))


def _other_leaf(value: object, allowed: frozenset[type]) -> str:
    """What stands in a nested list beside the types allowed, in words; empty when nothing does."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if type(item) is list:
            waiting.extend(item)
        elif type(item) not in allowed:
            return _json_type(item)
    return ""


def encode(outputs: Sequence[Any], wanted: Wanted, extra: Mapping[str, object] | None = None) -> bytes:
    """The answer's whole body; `outputs` in the order of `wanted.names`.

    Raises:
        ModelOutputError: an output has no form in JSON.
    """
    first = outputs[0] if outputs else []
    body = _PREFIX + _dump(first)
    if wanted.by_name:
        named = (orjson.dumps(name) + b":" + _dump(value) for name, value in zip(wanted.names, outputs, strict=True))
        body += b',"outputs":{' + b",".join(named) + b"}"
    for name, value in (extra or {}).items():
        body += b"," + orjson.dumps(name) + b":" + orjson.dumps(value)
    return body + b"}"


def _dump(value: Any) -> bytes:  # noqa: ANN401 - whatever a model gives
    """One output as JSON: an array, or the sequences and maps that some classifiers give."""
    try:
        if isinstance(value, np.ndarray):
            if value.dtype.kind in "OSU" or not value.ndim:
                return orjson.dumps(value.tolist())
            return orjson.dumps(np.ascontiguousarray(value), option=_DUMP)
        return orjson.dumps(value, option=_DUMP)
    except TypeError as error:
        msg = f"an output of the model cannot be written as JSON: {error}"
        raise ModelOutputError(msg) from None


def _datatype_error(spec: TensorSpec, received: str) -> InvalidDatatypeError:
    expected = _WORDS.get(spec.datatype, "whole numbers" if "INT" in spec.datatype else "numbers")
    return InvalidDatatypeError(f"{spec.name!a} takes {expected} ({spec.datatype}); received {received}")


def _ragged(spec: TensorSpec) -> InvalidShapeError:
    return InvalidShapeError(f"the values for {spec.name!a} are not a rectangular array; expected {_shape(spec.shape)}")


def _beyond(spec: TensorSpec) -> InvalidDatatypeError:
    return InvalidDatatypeError(f"a value for {spec.name!a} is beyond the range of {spec.datatype}")


def _json_type(value: object) -> str:
    words = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return words.get(type(value), "a number")


def _names(names: Any) -> str:  # noqa: ANN401 - any collection of strings
    shown = ", ".join(f"{name[:80]!a}" for name in heapq.nsmallest(_SHOWN, names))
    return (shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")) or "nothing"


def _shape(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if axis is None else str(axis) for axis in shape) + "]"
