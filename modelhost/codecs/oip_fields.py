"""Reads the fields of an Open Inference Protocol request: what is missing or of another type is a 400."""

from typing import Any

from mlbuffet.errors import BadRequestError
from modelhost.codecs.tensors import json_type

_WORDS = {str: "a string", int: "a whole number", bool: "true or false", list: "a list", dict: "an object"}

Object = dict[str, Any]


def check(value: object, kind: type, what: str) -> None:
    """Refuse a value of another type.

    Raises:
        BadRequestError: it is.
    """
    if type(value) is not kind:
        msg = f"{what} is {_WORDS[kind]}; received {json_type(value)}"
        raise BadRequestError(msg)


def required(owner: Object, name: str, kind: type, what: str) -> Any:  # noqa: ANN401 - of the kind
    """A field's value.

    Raises:
        BadRequestError: it is missing or of another type.
    """
    value = owner.get(name)
    if type(value) is not kind:
        received = json_type(value) if name in owner else "nothing"
        msg = f"{what} has the field '{name}', {_WORDS[kind]}; received {received}"
        raise BadRequestError(msg)
    return value


def optional(owner: Object, name: str, kind: type, what: str) -> Any:  # noqa: ANN401 - of the kind, or None
    """A field's value, or None where it is missing or null.

    Raises:
        BadRequestError: it is of another type.
    """
    return None if owner.get(name) is None else required(owner, name, kind, what)


def parameter(owner: Object, name: str, kind: type | None = None) -> Any:  # noqa: ANN401 - of the kind, or None
    """One of an object's `parameters`, of any type where none is given, or None where it is missing or null.

    Raises:
        BadRequestError: it is of another type.
    """
    parameters = owner.get("parameters")
    if parameters is None:
        return None
    check(parameters, dict, "'parameters'")
    return optional(parameters, name, kind, "'parameters'") if kind else parameters.get(name)


def count_all_strings(value: object) -> int:
    """How many strings some JSON has, names among them."""
    count = 0
    waiting = [value]
    for item in waiting:
        if type(item) is str:
            count += 1
        elif type(item) is dict:
            count += len(item)
            waiting.extend(item.values())
        elif type(item) is list:
            waiting.extend(item)
    return count
