"""Which functions of a model call which, and how large it is once the runtime has put them in. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from mlbuffet.errors import ModelTooComplexError
from modelhost.structure.schema import CALLS, NODES


class FunctionKey(NamedTuple):
    """What a node calls, and what a function is called by."""

    domain: str
    name: str
    overload: str


class Body(NamedTuple):
    """How many nodes a graph or a function has, those of its subgraphs included, and which functions it calls."""

    nodes: int
    calls: Mapping[FunctionKey, int]


def check_calls(main: Body, functions: Mapping[FunctionKey, Body]) -> None:
    """Refuse functions that call themselves or too deep, and models that calls make too large.

    Raises:
        ModelTooComplexError: that is so.
    """
    known: dict[FunctionKey, Size] = {}
    for body in (main, *functions.values()):
        _measure(body, functions, known, 0)


class Size(NamedTuple):
    """How large a body is with everything put in."""

    nodes: int
    levels: int


def _measure(body: Body, functions: Mapping[FunctionKey, Body], known: dict[FunctionKey, Size], level: int) -> Size:
    """Measure one body; a function that calls itself has no end and is found by its depth."""
    nodes, levels = body.nodes, 0
    for key in body.calls.keys() & functions.keys():
        if level < CALLS and key not in known:
            known[key] = _measure(functions[key], functions, known, level + 1)
        size = known.get(key, Size(0, CALLS))
        nodes += body.calls[key] * size.nodes
        levels = max(levels, size.levels + 1)
    if levels > CALLS:
        msg = f"the model's functions call each other more than {CALLS} deep, or themselves"
        raise ModelTooComplexError(msg)
    if nodes > NODES:
        msg = f"with its functions put in where they are called, the model has more than {NODES:,} nodes"
        raise ModelTooComplexError(msg)
    return Size(nodes, levels)
