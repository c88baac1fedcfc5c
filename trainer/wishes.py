"""The text fields of a training request: limits, parameters and what is to become of the model. Pure."""

import math
import re
from collections.abc import Mapping
from typing import TypeVar

from mlbuffet.errors import UnprocessableError
from mlbuffet.manifest import check_description
from mlbuffet.strict_json import count_strings, parse
from trainer.runs import Limits, Parameter, Wish
from trainer.settings import TrainerSettings
from trainer.spec import parameter_variable

V = TypeVar("V")

_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", re.ASCII)
_TEXT_CHARACTERS = 4096
_MOST_PARAMETERS = 100
_LEAST_MEMORY_BYTES = 64 << 20


def read_wish(model: str, fields: Mapping[str, str], settings: TrainerSettings) -> Wish:
    """What is asked for.

    Raises:
        UnprocessableError: a field has no value that it can have.
        InvalidJSONError: the parameters are not JSON.
    """
    limits = Limits(
        _number("timeout_s", fields, settings.timeout_s, 1, settings.most_timeout_s),
        int(_number("memory_bytes", fields, settings.memory_bytes, _LEAST_MEMORY_BYTES, settings.most_memory_bytes)),
        _number("cpus", fields, settings.cpus, 0.1, settings.most_cpus),
    )
    description = fields.get("description")
    return Wish(
        model=model,
        limits=limits,
        parameters=_parameters(fields.get("parameters", "{}")),
        description=None if description is None else check_description(description),
        activate=_choice("activate", fields, {"true": True, "false": False}, "true"),
        retries=_choice("retries", fields, {"0": 0, "1": 1}, "0"),
    )


def _number(name: str, fields: Mapping[str, str], default: float, least: float, most: float) -> float:
    text = fields.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        msg = f"{name!r} is a number from {least} to {most}; received {text[:80]!a}"
        raise UnprocessableError(msg)
    return value


def _choice(name: str, fields: Mapping[str, str], choices: Mapping[str, V], default: str) -> V:
    text = fields.get(name, default)
    if text not in choices:
        msg = f"{name!r} is {' or '.join(choices)}; received {text[:80]!a}"
        raise UnprocessableError(msg)
    return choices[text]


def _parameters(text: str) -> Mapping[str, Parameter]:
    data = parse(text.encode())
    if not isinstance(data, dict) or len(data) > _MOST_PARAMETERS:
        msg = f"'parameters' is a JSON object of at most {_MOST_PARAMETERS} names with texts, numbers, true or false"
        raise UnprocessableError(msg)
    if count_strings(text.encode()) != len(data) + sum(isinstance(value, str) for value in data.values()):
        msg = "a parameter's name stands once, and its value is a text, a number, true or false"
        raise UnprocessableError(msg)
    variables: set[str] = set()
    for name, value in data.items():
        _check_parameter(name, value)
        variables.add(parameter_variable(name))
    if len(variables) < len(data):
        msg = "two parameters differ by case or dashes only; they would be one environment variable"
        raise UnprocessableError(msg)
    return data


def _check_parameter(name: str, value: object) -> None:
    if not _PARAMETER.fullmatch(name):
        msg = f"a parameter's name has letters, digits, _ and - only; received {name[:80]!a}"
        raise UnprocessableError(msg)
    if type(value) not in {str, int, float, bool}:
        msg = f"the parameter {name!a} is a text, a number, true or false; received {type(value).__name__}"
        raise UnprocessableError(msg)
    if isinstance(value, str) and (len(value) > _TEXT_CHARACTERS or "\0" in value):
        msg = f"the parameter {name!a} has at most {_TEXT_CHARACTERS} characters, none of them NUL"
        raise UnprocessableError(msg)
