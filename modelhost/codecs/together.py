"""Reads short JSON requests that came together as one text, where they say the same around numbers of one shape.

To make an array of four numbers costs as much as to make one of fifty. So the numbers of such requests are joined and
read once, and each request gets its rows of what came of them. Nothing is taken or refused that would not be alone:
whatever is not plainly as it should be is read one by one (docs/adr/0018-numbers-without-objects.md).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import orjson

from mlbuffet.errors import MLBuffetError
from mlbuffet.manifest import TensorSpec
from mlbuffet.strict_json import parse
from modelhost.codecs.cut import Plans, cut
from modelhost.codecs.numbers import NUMBERS, is_exact
from modelhost.codecs.request import Answer, Array, Decoded, Served
from modelhost.codecs.tensors import to_array

_STRUCTURE = b"[],"
_NO_NUMBERS = frozenset({"BOOL", "BYTES"})


class Part(NamedTuple):
    """Which of a request's arrays is for an input, and what makes of it the tensor that the model takes."""

    spec: TensorSpec
    place: int
    fit: Callable[[Array], Array]


class Plan(Protocol):
    """What a request says around its arrays."""

    @property
    def served(self) -> Served:
        """The version that it is for."""

    @property
    def parts(self) -> Sequence[Part]:
        """All of its inputs."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Which outputs are wanted."""

    @property
    def encode(self) -> Callable[[Sequence[Any]], Answer]:
        """How they are answered."""

    @property
    def encode_rows(self) -> Callable[[Sequence[Any]], Sequence[Answer]] | None:
        """How requests of one row each are answered together, if they can be."""


P = TypeVar("P", bound=Plan)


class Joint:
    """Requests of one plan that were read together: `rows` of each array are one's, those of the next one follow."""

    __slots__ = ("_feeds", "_plan", "_rows")

    def __init__(self, plan: Plan, feeds: Mapping[str, Array], rows: int) -> None:
        self._rows = rows
        self._plan = plan
        self._feeds = feeds

    def some(self, first: int, count: int) -> Decoded:
        """So many of the requests as one; `first` is the place of the first of them among all."""
        start, end = first * self._rows, (first + count) * self._rows
        feeds = {name: array[start:end] for name, array in self._feeds.items()}
        return Decoded(feeds, self._plan.outputs, self._plan.encode, self._plan.encode_rows)


class Outline(NamedTuple):
    """A request cut into what it says around its arrays, and those."""

    plan: Plan
    arrays: Sequence[bytes]


def outline_of(
    text: bytes, served: Served, before: bytes, plans: Plans[P], plan_around: Callable[[bytes, int, Served], P | None]
) -> Outline | None:
    """Cut a text, and find or make what it says around its arrays, which stand behind `before` as for `cut`."""
    guess = plans.guess(text, served)
    if guess is not None:
        return Outline(guess[0], guess[1:])
    rest, arrays = cut(text, before)
    plan = (plans.find(rest, len(arrays), served) or plan_around(rest, len(arrays), served)) if arrays else None
    if plan is None or len(plan.parts) != len(served.signature.inputs):
        return None  # some of its inputs are not in the text
    if len(arrays) == 1:
        plans.expect(rest, plan)
    return Outline(plan, arrays)


def read_together(plan: Plan, requests: Sequence[Sequence[bytes]]) -> Joint | None:
    """Requests of one plan, each by its arrays; nothing where they are not plainly right, and of the same shape."""
    feeds: dict[str, Array] = {}
    rows = 0
    for spec, place, fit in plan.parts:
        joint = _joint(spec, [arrays[place] for arrays in requests])
        if joint is None:
            return None
        try:
            first = fit(joint[0])
        except MLBuffetError:
            return None
        if not first.ndim or len(first) != (rows or len(first)):
            return None
        rows = len(first)
        feeds[spec.name] = joint.reshape((len(requests) * rows, *first.shape[1:]))
    return Joint(plan, feeds, rows) if rows else None


def _joint(spec: TensorSpec, texts: Sequence[bytes]) -> Array | None:
    """The arrays of several texts as the rows of one; none unless each is surely one, and all are of one shape.

    Nor where what becomes of a number could depend on those of other requests.
    """
    structure = texts[0].translate(None, NUMBERS)
    if spec.datatype in _NO_NUMBERS or not structure.startswith(b"[") or structure.translate(None, _STRUCTURE):
        return None
    # Where all have the same brackets, none borrows one from its neighbour.
    if [text.translate(None, NUMBERS) for text in texts].count(structure) != len(texts):
        return None
    try:
        array = np.asarray(parse(b"[%b]" % b",".join(texts)))
        if len(array) != len(texts) or not array.size:
            return None
        if array.dtype.kind == "f" and not is_exact(array):
            return None
        return to_array(spec, array, plain=True)
    except (MLBuffetError, ValueError):
        return None


def rows_of(output: Any) -> Sequence[bytes]:  # noqa: ANN401 - whatever a model gives
    """What stands in the brackets of each row in JSON, as deep as they are; nothing where there are no such rows."""
    if not isinstance(output, np.ndarray) or output.dtype.kind in "OSU" or not output.ndim:
        return ()
    try:
        text = orjson.dumps(np.ascontiguousarray(output), option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        return ()
    depth = output.ndim - 1
    rows = text[1 + depth : -1 - depth].split(b"]" * depth + b"," + b"[" * depth)
    return rows if len(rows) == len(output) else ()
