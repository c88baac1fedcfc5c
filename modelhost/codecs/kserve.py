"""KServe's V1 and TensorFlow Serving's form: `{"instances": […]}` to `{"predictions": […]}`, one for each.

An instance is the one input's values, or an object with each input's. `inputs` holds the same by columns. A prediction
is the one output's values, or an object with each output's.
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import orjson

from mlbuffet.errors import BadRequestError, InvalidShapeError, ModelOutputError
from mlbuffet.strict_json import parse
from modelhost.codecs.admission import check_memory
from modelhost.codecs.buffet import DUMP, dump, feeds_of, refuse_repeated
from modelhost.codecs.request import Answer, Decoded, Served
from modelhost.codecs.tensors import json_type, quoted

_FIELDS = frozenset({"instances", "inputs", "signature_name"})
_SIGNATURE = "serving_default"  # the one that a model has; some clients name it


class _Given(NamedTuple):
    """The values of a request; `rows` where it has them by rows, `strings` that stand around them."""

    values: list[Any] | dict[str, Any]
    rows: int | None
    strings: int


def decode(body: memoryview, split: int, served: Served) -> Decoded:  # noqa: ARG001 - a codec's signature
    """Read a request.

    Raises:
        InvalidJSONError, BadRequestError: not strict JSON, or not of this form.
        ResourceLimitError: more than fits into memory.
        InvalidShapeError, InvalidDatatypeError, UnknownInputError, MissingInputError: not what the model takes.
    """
    text = bytes(body)
    check_memory(text)
    given = _given(parse(text))
    plain = text.count(b'"') == 2 * given.strings and b"true" not in text and b"false" not in text
    feeds = feeds_of(given.values, served.signature.inputs, plain=plain)
    if not plain:
        refuse_repeated(text, given.strings + sum(array.size for array in feeds.values() if array.dtype.kind == "O"))
    for name, array in feeds.items():
        if given.rows is not None and len(array) != given.rows:
            msg = f"an instance is one observation; {given.rows} instances make {len(array)} for {quoted([name])}"
            raise InvalidShapeError(msg)
    names = tuple(spec.name for spec in served.signature.outputs)
    return Decoded(feeds, names, partial(encode, names, given.rows))


def _given(data: object) -> _Given:
    """The values that a request gives, by columns where it names its inputs.

    Raises:
        BadRequestError: it is not of this form.
    """
    if type(data) is not dict or data.keys() - _FIELDS or ("instances" in data) == ("inputs" in data):
        received = quoted(data) if type(data) is dict else json_type(data)
        msg = f'the body is an object {{"instances": […]}} or {{"inputs": …}}; received {received}'
        raise BadRequestError(msg)
    if data.get("signature_name", _SIGNATURE) != _SIGNATURE:
        msg = f"a model has one signature, {_SIGNATURE!r}"
        raise BadRequestError(msg)
    strings = len(data) + ("signature_name" in data)
    if "inputs" in data:
        values = data["inputs"]
        if type(values) not in {list, dict}:
            msg = f"'inputs' is a list or an object; received {json_type(values)}"
            raise BadRequestError(msg)
        return _Given(values, None, strings + (len(values) if type(values) is dict else 0))
    instances = data["instances"]
    if type(instances) is not list:
        msg = f"'instances' is a list; received {json_type(instances)}"
        raise BadRequestError(msg)
    if instances and type(instances[0]) is dict:
        return _Given(_columns(instances), len(instances), strings + sum(map(len, instances)))
    return _Given(instances, len(instances), strings)


def _columns(instances: Sequence[Any]) -> dict[str, Any]:
    """Each input's values over all instances.

    Raises:
        BadRequestError: they do not all name the same inputs.
    """
    names = instances[0].keys()
    if any(type(instance) is not dict or instance.keys() != names for instance in instances):
        msg = "the instances are all objects with the same names, or none is one"
        raise BadRequestError(msg)
    return {name: [instance[name] for instance in instances] for name in names}


def encode(names: Sequence[str], rows: int | None, outputs: Sequence[Any]) -> Answer:
    """The whole answer; `outputs` in the order of `names`.

    Raises:
        ModelOutputError: an output is not one value for each instance, or has no form in JSON.
    """
    wanted = _length(outputs[0]) if rows is None else rows
    if any(_length(output) != wanted for output in outputs):
        msg = "the model does not give one value for each instance; ask for it as V2 or at /api"
        raise ModelOutputError(msg)
    if len(outputs) == 1:
        return Answer((b'{"predictions":' + dump(outputs[0]) + b"}",))
    columns = [_elements(output) for output in outputs]
    predictions = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    try:
        return Answer((orjson.dumps({"predictions": predictions}, option=DUMP),))
    except TypeError as error:
        msg = f"an output of the model cannot be written as JSON: {error}"
        raise ModelOutputError(msg) from None


def _length(output: Any) -> int | None:  # noqa: ANN401 - whatever a model gives
    """How many values an output has; None where it is one itself."""
    single = output.ndim == 0 if isinstance(output, np.ndarray) else not isinstance(output, list)
    return None if single else len(output)


def _elements(output: Any) -> Sequence[Any]:  # noqa: ANN401 - whatever a model gives
    """An output's values for each instance, as orjson writes them: floats as short as their type allows."""
    if isinstance(output, np.ndarray) and output.dtype.kind != "f":
        return list(output.tolist())
    return list(np.ascontiguousarray(output)) if isinstance(output, np.ndarray) else list(output)
