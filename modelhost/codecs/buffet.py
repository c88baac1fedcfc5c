"""V1 JSON: `{"values": …}` to named arrays, and outputs back to `{"values": …}`.

NaN and infinities, which JSON does not have, are refused on the way in and written as null on the way out.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import orjson

from mlbuffet.errors import (
    InvalidJSONError,
    InvalidOutputError,
    MissingInputError,
    MLBuffetError,
    ModelOutputError,
    UnknownInputError,
    UnprocessableError,
)
from mlbuffet.manifest import Signature, TensorSpec
from mlbuffet.strict_json import count_strings, parse
from modelhost.codecs.admission import check_memory
from modelhost.codecs.cut import Plans, cut, is_sound
from modelhost.codecs.numbers import LONG_BYTES, read_tensor
from modelhost.codecs.request import Answer, Array, Decoded, Served
from modelhost.codecs.tensors import fit_shape, json_type, quoted, to_array
from modelhost.codecs.together import Outline, Part, outline_of, rows_of

_PREFIX = b'{"http_status":{"code":200,"name":"OK","description":"Request fulfilled, document follows"},"values":'
DUMP = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


class Wanted(NamedTuple):
    """Which outputs go into the answer: the first one as `values`, and those asked for by name."""

    names: tuple[str, ...]
    by_name: bool


class _Plan(NamedTuple):
    """What a request says around its arrays: which of them is for which input, in the model's order of inputs."""

    served: Served
    parts: tuple[Part, ...]
    outputs: tuple[str, ...]
    encode: Callable[[Sequence[Any]], Answer]
    encode_rows: Callable[[Sequence[Any]], Sequence[Answer]]


_plans: Plans[_Plan] = Plans()


def decode(body: memoryview, split: int, served: Served) -> Decoded:  # noqa: ARG001 - a codec's signature
    """Read a request.

    Raises:
        InvalidJSONError: not strict JSON.
        ResourceLimitError: more than fits into memory.
        UnprocessableError: no `values`, or not a list or an object.
        InvalidShapeError, InvalidDatatypeError, UnknownInputError, MissingInputError, InvalidOutputError: not what the
            model takes or gives.
    """
    text = bytes(body)
    # A short text is as quickly read whole.
    rest, arrays = cut(text, b"[") if len(text) > LONG_BYTES else (text, [])
    if arrays:
        plan = _plans.find(rest, len(arrays), served) or _plan(rest, len(arrays), served)
        if plan is not None:
            try:
                feeds = {spec.name: fit(read_tensor(spec, arrays[place])) for spec, place, fit in plan.parts}
            except MLBuffetError:
                pass  # whoever reads the whole says what is wrong first
            else:
                return Decoded(feeds, plan.outputs, plan.encode, plan.encode_rows)
    return _decode_whole(text, served)


def outline(body: memoryview, served: Served) -> Outline | None:
    """A request that nothing follows, cut to be read with others; none where its form is not plain."""
    return outline_of(bytes(body), served, b"[", _plans, _plan)


def _decode_whole(text: bytes, served: Served) -> Decoded:
    """Read a request of any values, as `decode`."""
    check_memory(text)
    data = parse(text)
    values = _values(data)
    strings = _strings_around(data, values)
    # Nearly every request has numbers only. The others are looked through, for numpy's sake: it makes numbers of
    # booleans among numbers without a word, and of strings an array as wide as the longest of them.
    plain = text.count(b'"') == 2 * strings and b"true" not in text and b"false" not in text
    feeds = feeds_of(values, served.signature.inputs, plain=plain)
    wanted = wanted_outputs(data.get("outputs"), served.signature)
    if not plain:
        refuse_repeated(text, strings + sum(array.size for array in feeds.values() if array.dtype.kind == "O"))
    return Decoded(feeds, wanted.names, partial(encode, wanted))


def _plan(rest: bytes, arrays: int, served: Served) -> _Plan | None:
    """What a request says around so many arrays; nothing where it is wrong, or they are not all of its values."""
    if not is_sound(rest, arrays):
        return None
    try:
        data = parse(rest)
        values = _values(data)
        inputs = _by_input(values, served.signature.inputs)
        wanted = wanted_outputs(data.get("outputs"), served.signature)
    except MLBuffetError:
        return None  # whoever reads the whole says why
    if len(inputs) != arrays or any(value != [] for _, value in inputs):
        return None
    if rest.count(b'"') != 2 * _strings_around(data, values):
        return None
    order = list(values) if type(values) is dict else [spec.name for spec, _ in inputs]
    parts = tuple(Part(spec, order.index(spec.name), partial(fit_shape, spec)) for spec, _ in inputs)
    plan = _Plan(served, parts, wanted.names, partial(encode, wanted), partial(encode_rows, wanted))
    _plans.keep(rest, arrays, plan)
    return plan


def _values(data: object) -> Any:  # noqa: ANN401 - JSON of any shape
    if type(data) is not dict:
        msg = f'the body is an object {{"values": …}}; received {json_type(data)}'
        raise UnprocessableError(msg)
    if "values" not in data:
        msg = f"the field 'values' is missing; received {quoted(data)}"
        raise UnprocessableError(msg)
    if len(data) > 1 and data.keys() - {"values", "outputs"}:
        msg = f"the fields are values and outputs; received {quoted(data.keys() - {'values', 'outputs'})}"
        raise UnprocessableError(msg)
    values = data["values"]
    if type(values) not in {list, dict}:
        msg = f"'values' is a list or an object; received {json_type(values)}"
        raise UnprocessableError(msg)
    return values


def _strings_around(data: Mapping[str, Any], values: Any) -> int:  # noqa: ANN401 - JSON of any shape
    """How many strings a request has beside the values themselves: names of fields, inputs and outputs."""
    outputs = data.get("outputs")
    names = len(data) + (len(values) if type(values) is dict else 0)
    return names + (len(outputs) if type(outputs) is list else type(outputs) is str)


def refuse_repeated(text: bytes, strings: int) -> None:
    """Refuse a text of more strings than were parsed: of a name that stands twice the parser keeps the last."""
    if count_strings(text) != strings:
        msg = "in one object each name stands once; received one that stands there again"
        raise InvalidJSONError(msg)


def feeds_of(values: Any, inputs: Sequence[TensorSpec], *, plain: bool) -> dict[str, Array]:  # noqa: ANN401 - any JSON
    """Each input's array; `plain` where it is known that there are numbers only."""
    return {spec.name: fit_shape(spec, to_array(spec, value, plain=plain)) for spec, value in _by_input(values, inputs)}


def _by_input(values: Any, inputs: Sequence[TensorSpec]) -> list[tuple[TensorSpec, Any]]:  # noqa: ANN401 - any JSON
    """Each input's values, whether they are one list or named ones."""
    if type(values) is list:
        if len(inputs) != 1:
            msg = f"the model has {len(inputs)} inputs: give 'values' as an object with {quoted(_names_of(inputs))}"
            raise MissingInputError(msg)
        return [(inputs[0], values)]
    known = _names_of(inputs)
    if values.keys() - known:
        msg = f"the inputs are {quoted(known)}; received {quoted(values.keys() - known)}"
        raise UnknownInputError(msg)
    if known - values.keys():
        msg = f"no values for the inputs {quoted(known - values.keys())}"
        raise MissingInputError(msg)
    return [(spec, values[spec.name]) for spec in inputs]


def _names_of(specs: Sequence[TensorSpec]) -> set[str]:
    return {spec.name for spec in specs}


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
        msg = f"the outputs are {quoted(names)}, each at most once; received {quoted(wrong)}"
        raise InvalidOutputError(msg)
    return Wanted(tuple(asked), by_name=True)


def encode(wanted: Wanted, outputs: Sequence[Any], extra: Mapping[str, object] | None = None) -> Answer:
    """The whole answer; `outputs` in the order of `wanted.names`.

    Raises:
        ModelOutputError: an output has no form in JSON.
    """
    first = outputs[0] if outputs else []
    body = _PREFIX + dump(first)
    if wanted.by_name:
        named = (orjson.dumps(name) + b":" + dump(value) for name, value in zip(wanted.names, outputs, strict=True))
        body += b',"outputs":{' + b",".join(named) + b"}"
    for name, value in (extra or {}).items():
        body += b"," + orjson.dumps(name) + b":" + orjson.dumps(value)
    return Answer((body + b"}",))


def encode_rows(wanted: Wanted, outputs: Sequence[Any]) -> Sequence[Answer]:
    """The answers of requests that each have one row of the outputs; nothing where each is to be made alone."""
    if wanted.by_name:
        return ()
    depth = np.ndim(outputs[0])
    begin, end = _PREFIX + b"[" * depth, b"]" * depth + b"}"
    return [Answer((begin + row + end,)) for row in rows_of(outputs[0])]


def dump(value: Any) -> bytes:  # noqa: ANN401 - whatever a model gives
    """One output as JSON: an array, or the sequences and maps that some classifiers give."""
    try:
        if isinstance(value, np.ndarray):
            if value.dtype.kind in "OSU" or not value.ndim:
                return orjson.dumps(value.tolist())
            return orjson.dumps(np.ascontiguousarray(value), option=DUMP)
        return orjson.dumps(value, option=DUMP)
    except TypeError as error:
        msg = f"an output of the model cannot be written as JSON: {error}"
        raise ModelOutputError(msg) from None
