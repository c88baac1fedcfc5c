"""Cuts the arrays out of a JSON text, so that what stands around them is looked at once and remembered.

Clients say the same around their numbers again and again. `cut` looks for arrays without reading the text, and may take
for one what is none: `is_sound` says whether the text is surely what its rest says with the arrays in the empty lists
(docs/adr/0018-numbers-without-objects.md).
"""

import re
from typing import Protocol, TypeVar

from modelhost.codecs.request import Served

_MOST_LOOKS = 16
_MOST_REST_BYTES = 1 << 12
_MOST_PLANS = 256
_EMPTY = re.compile(rb"\[\s*\]")


class _Plan(Protocol):
    @property
    def served(self) -> Served: ...


P = TypeVar("P", bound=_Plan)


class Plans(dict[tuple[bytes, int], P]):
    """What was made of texts without their arrays; it forgets all when it is full."""

    _last: tuple[bytes, bytes, P | None] = b"", b"", None

    def find(self, rest: bytes, arrays: int, served: Served) -> P | None:
        """What was made for this version of a text with so many arrays."""
        plan = self.get((rest, arrays)) if len(rest) <= _MOST_REST_BYTES else None
        return plan if plan is not None and plan.served is served else None

    def guess(self, text: bytes, served: Served) -> tuple[P, bytes] | None:
        """The plan that a text with one array was last read by, and what stands where that one had its array."""
        before, behind, plan = self._last
        if plan is None or plan.served is not served or not (text.startswith(before) and text.endswith(behind)):
            return None
        return plan, text[len(before) : len(text) - len(behind)]

    def expect(self, rest: bytes, plan: P) -> None:
        """Expect more texts that say the same around their one array."""
        before, _, behind = rest.partition(b"[]")
        self._last = before, behind, plan

    def keep(self, rest: bytes, arrays: int, plan: P) -> None:
        """Remember what was made of a text."""
        if len(self) >= _MOST_PLANS:
            self.clear()
        self[rest, arrays] = plan


def cut(text: bytes, before: bytes) -> tuple[bytes, list[bytes]]:
    """A text with its arrays empty, and those; `before` stands before, or begins, each that is looked for.

    An array is what begins with a bracket, and ends with the last one before the next string or end of an object. Where
    there are none, or too much else, the text comes back whole.
    """
    arrays: list[bytes] = []
    rest: list[bytes] = []
    start, found = 0, text.find(before)
    brace = quote = -1
    while found >= 0 and (place := text.find(b"[", found)) >= 0 and len(rest) < _MOST_LOOKS:
        if brace < place:
            brace = text.find(b"}", place)
        if quote < place:
            quote = text.find(b'"', place)
        end = quote if 0 < quote < brace else brace
        if end < 0 or place - start > _MOST_REST_BYTES:
            return text, []
        stop = text.rfind(b"]", place, end)
        if stop < 0:
            rest.append(text[start:place])
            start = place
        else:
            arrays.append(text[place : stop + 1])
            rest.append(text[start : place + 1])
            start = stop
        found = text.find(before, end)
    if not arrays or len(text) - start > _MOST_REST_BYTES:
        return text, []
    rest.append(text[start:])
    return b"".join(rest), arrays


def is_sound(rest: bytes, arrays: int) -> bool:
    """Tell whether each of so many arrays surely stood where an empty list stands in a short rest, and in no string."""
    pieces = rest.split(b"[]", arrays + 1)
    return (
        len(rest) <= _MOST_REST_BYTES
        and len(pieces) == arrays + 1
        and len(_EMPTY.findall(rest)) == arrays
        and b"\\" not in rest
        and not any(piece.count(b'"') & 1 for piece in pieces)
    )
