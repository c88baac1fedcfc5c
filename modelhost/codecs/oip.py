"""The Open Inference Protocol over REST: JSON, with the tensors that may follow it as bytes, to named arrays.

Also the request that is nothing but the bytes of the model's one input. Whatever is wrong with a request is a 400
(docs/oip.md).
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from mlbuffet.errors import BadRequestError, InvalidJSONError, InvalidShapeError, MissingInputError, MLBuffetError
from mlbuffet.manifest import TensorSpec
from mlbuffet.strict_json import count_strings, parse
from modelhost.codecs.admission import check_memory
from modelhost.codecs.binary import from_bytes, text_of
from modelhost.codecs.cut import Plans, cut, is_sound
from modelhost.codecs.numbers import read_tensor
from modelhost.codecs.oip_answer import all_outputs, encode, encode_rows, opening_of, read_wanted
from modelhost.codecs.oip_fields import check, count_all_strings, optional
from modelhost.codecs.oip_inputs import Input, read_inputs
from modelhost.codecs.request import Answer, Array, Decoded, Served
from modelhost.codecs.tensors import axes, quoted, to_array
from modelhost.codecs.together import Outline, Part, outline_of
from modelhost.runtimes.onnx import DTYPES


class _Plan(NamedTuple):
    """What a request says around its values."""

    served: Served
    inputs: Sequence[Input]  # in the model's order
    parts: Sequence[Part]  # the same, where all stand in the JSON
    size_bytes: int  # of the tensors behind the JSON
    outputs: tuple[str, ...]
    encode: Callable[[Sequence[Any]], Answer]
    encode_rows: Callable[[Sequence[Any]], Sequence[Answer]] | None = None


_plans: Plans[_Plan] = Plans()


def decode(body: memoryview, split: int, served: Served) -> Decoded:
    """Read a request; tensors follow its JSON where there is a split.

    Raises:
        InvalidJSONError: not strict JSON.
        ResourceLimitError: more than fits into memory.
        BadRequestError: a field is missing or mistyped, or there are more or fewer bytes than announced.
        InvalidShapeError, InvalidDatatypeError, UnknownInputError, MissingInputError, InvalidOutputError: not what the
            model takes or gives.
        ModelOutputError: an output that is asked for is no tensor.
    """
    text, tensors = (bytes(body[:split]), body[split:]) if split else (bytes(body), body[:0])
    rest, arrays = cut(text, b'"data"')
    plan = _plans.find(rest, len(arrays), served) or _plan_around(rest, len(arrays), served)
    if plan is not None:
        try:
            feeds = _feeds(plan, tensors, lambda spec, place: read_tensor(spec, arrays[place]))
        except MLBuffetError:
            pass  # whoever reads the whole says what is wrong first
        else:
            return Decoded(feeds, plan.outputs, plan.encode, plan.encode_rows)
    return _decode_whole(text, tensors, served)


def outline(body: memoryview, served: Served) -> Outline | None:
    """A request that nothing follows, cut to be read with others; none where its form is not plain."""
    return outline_of(bytes(body), served, b'"data"', _plans, _plan_around)


def _decode_whole(text: bytes, tensors: memoryview, served: Served) -> Decoded:
    """Read a request of any values, as `decode`."""
    check_memory(text)
    plan, data, strings = _plan(parse(text), served)
    # As in V1's JSON: nearly every request has numbers only, and the others are looked through.
    plain = text.count(b'"') == 2 * strings and b"true" not in text and b"false" not in text
    feeds = _feeds(plan, tensors, lambda spec, place: to_array(spec, data[place], plain=plain))
    if not plain:
        strings += sum(
            feeds[spec.name].size for spec, _, place, *_ in plan.inputs if place >= 0 and spec.datatype == "BYTES"
        )
        if count_strings(text) != strings:
            msg = "in one object each name stands once; received one that stands there again"
            raise InvalidJSONError(msg)
    return Decoded(feeds, plan.outputs, plan.encode)


def _plan_around(rest: bytes, arrays: int, served: Served) -> _Plan | None:
    """What a request says around so many arrays; nothing where it is wrong, or they are not all of its values."""
    if not is_sound(rest, arrays):
        return None
    try:
        plan, data, strings = _plan(parse(rest), served)
    except MLBuffetError:
        return None  # whoever reads the whole says why
    if len(data) != arrays or any(values != [] for values in data) or rest.count(b'"') != 2 * strings:
        return None
    _plans.keep(rest, arrays, plan)
    return plan


def _plan(request: Any, served: Served) -> tuple[_Plan, list[Any], int]:  # noqa: ANN401 - any JSON
    """What a request says, the values that stand in it, and how many strings there are beside them."""
    check(request, dict, "the body")
    inputs, data, size_bytes = read_inputs(request, served.signature.inputs)
    wanted = read_wanted(request, served.signature)
    names = tuple(output.name for output in wanted)
    opening = opening_of(served, optional(request, "id", str, "the request"))
    parts = [Part(spec, place, partial(_shaped, spec, shape)) for spec, shape, place, *_ in inputs if place >= 0]
    how = opening, wanted
    plan = _Plan(served, inputs, parts, size_bytes, names, partial(encode, *how), partial(encode_rows, *how))
    return plan, data, count_all_strings(request) + len(data)


def _feeds(plan: _Plan, tensors: memoryview, read: Callable[[TensorSpec, int], Array]) -> dict[str, Array]:
    """Each input's array, out of the JSON by `read` or out of the bytes behind it."""
    if len(tensors) != plan.size_bytes:
        msg = f"{len(tensors)} bytes follow the JSON; expected {plan.size_bytes}"
        raise BadRequestError(msg)
    feeds = {}
    for spec, shape, place, start, end in plan.inputs:
        if place < 0:
            feeds[spec.name] = from_bytes(spec, shape, tensors[start:end])
        else:
            feeds[spec.name] = _shaped(spec, shape, read(spec, place))
    return feeds


def _shaped(spec: TensorSpec, shape: tuple[int, ...], array: Array) -> Array:
    """Values in the shape that is said of them; they may be flat."""
    if array.shape == shape:
        return array
    # Nested lists say nothing of the axes behind one that is empty.
    nested = not array.size and array.shape == shape[: array.ndim]
    if (array.ndim == 1 or nested) and array.size == prod(shape):
        return array.reshape(shape)
    msg = f"{quoted([spec.name])} is said to have the shape {list(shape)}; the data has {list(array.shape)}"
    raise InvalidShapeError(msg)


def decode_raw(body: memoryview, split: int, served: Served) -> Decoded:  # noqa: ARG001 - a codec's signature
    """Read the bytes of the one input; the outputs are answered as bytes, too.

    Raises:
        MissingInputError: the model has several inputs.
        InvalidShapeError, InvalidDatatypeError: not what the input takes, or it does not say of what shape they are.
    """
    if len(served.signature.inputs) != 1:
        msg = f"only a model with one input takes bare bytes; this one has {len(served.signature.inputs)}"
        raise MissingInputError(msg)
    (spec,) = served.signature.inputs
    plan = _plans.find(b"", 0, served) or _raw_plan(served)
    return Decoded({spec.name: _raw(spec, body)}, plan.outputs, plan.encode)


def _raw_plan(served: Served) -> _Plan:
    """What a request says that says nothing."""
    wanted = all_outputs(served.signature, binary=True)
    encoder = partial(encode, opening_of(served, None), wanted)
    plan = _Plan(served, (), (), 0, tuple(output.name for output in wanted), encoder)
    _plans.keep(b"", 0, plan)
    return plan


def _raw(spec: TensorSpec, data: memoryview) -> Array:
    """The one input: as many rows as there are bytes for, or the whole as one string."""
    known = prod(axis for axis in spec.shape if axis is not None)
    if spec.datatype == "BYTES":
        if known != 1:
            msg = f"bare bytes are one string; {quoted([spec.name])} takes {axes(spec.shape)}"
            raise InvalidShapeError(msg)
        return np.full([1] * len(spec.shape), text_of(spec, data), dtype=object)
    if spec.shape.count(None) > 1:
        msg = f"bare bytes do not say the shape of {quoted([spec.name])}, which is {axes(spec.shape)}"
        raise InvalidShapeError(msg)
    rows = len(data) // (known * DTYPES[spec.datatype].itemsize or 1)
    return from_bytes(spec, tuple(rows if axis is None else axis for axis in spec.shape), data)
