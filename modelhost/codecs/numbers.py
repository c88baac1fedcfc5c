"""Arrays of numbers out of a JSON text, long ones without a Python object for each number: the only import of simdjson.

What simdjson does not find plainly to be numbers in a rectangle is left to orjson, so that nothing is taken or refused
that would not be without it (docs/adr/0018-numbers-without-objects.md).
"""

import re
from collections.abc import Iterator
from math import prod
from typing import cast

import numpy as np
import simdjson

from mlbuffet.manifest import TensorSpec
from mlbuffet.strict_json import parse
from modelhost.codecs.admission import check_memory
from modelhost.codecs.request import Array
from modelhost.codecs.tensors import to_array

LONG_BYTES = 1 << 10  # a shorter text is as fast as a list
PIECE_BYTES = 1 << 16  # read at once: what is made of it stays in the processor's cache, and on pages that are there
_MOST_KEPT_BYTES = 1 << 18  # a parser keeps the memory of its longest text
_MOST_RANK = 32
_EXACT = float(1 << 53)  # whole numbers below are all floats too
NUMBERS = b"0123456789.+-eE \t\r\n"  # what numbers and the space around them are made of
_OPENING = re.compile(rb"\[+")
_parser = simdjson.Parser()


def read_tensor(spec: TensorSpec, text: bytes) -> Array:
    """The tensor for an input that a text says, which begins with a bracket and has no strings and no objects.

    Raises:
        InvalidJSONError: not strict JSON.
        InvalidShapeError, InvalidDatatypeError: ragged, or not of the input's type.
        ResourceLimitError: more than fits into memory.
    """
    if len(text) > LONG_BYTES:
        array = _array(spec, text)
        if array is not None:
            return array
        check_memory(text)
    return to_array(spec, parse(text), plain=b"r" not in text and b"s" not in text)  # as in true and false


def _array(spec: TensorSpec, text: bytes) -> Array | None:
    """The tensor that a text is; none if it is anything but numbers in a rectangle, all of which a float64 holds."""
    pieces = []
    try:
        for piece in _pieces(text):
            parser = _parser if len(piece) <= _MOST_KEPT_BYTES else simdjson.Parser()
            flat = np.frombuffer(cast("simdjson.Array", parser.parse(piece)).as_buffer(of_type="d"))
            if not flat.size or not is_exact(flat):
                return None
            pieces.append(to_array(spec, flat, plain=True))
    except (ValueError, TypeError, RuntimeError, MemoryError):
        return None
    array = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    shape = _shape(text, array.size)
    return None if shape is None else array.reshape(shape)


def is_exact(array: Array) -> bool:
    """Tell whether floats are surely the numbers that were written, whole ones too."""
    return bool(max(array.max(), -array.min()) < _EXACT)


def _pieces(text: bytes) -> Iterator[bytes]:
    """A text as it is, or, if it is long and but one list of numbers, the same numbers in several lists."""
    start = _depth(text)
    if len(text) <= PIECE_BYTES or text.find(b"[", start) >= 0:
        yield text
        return
    end = len(text) - start
    while start <= end:
        stop = text.find(b",", start + PIECE_BYTES, end)
        stop = end if stop < 0 else stop
        yield b"[%b]" % text[start:stop]
        start = stop + 1


def _shape(text: bytes, count: int) -> tuple[int, ...] | None:
    """The shape of an array of so many numbers that is valid JSON; none where lists are of several lengths."""
    depth = _depth(text)
    if depth > _MOST_RANK:
        return None
    if text.find(b"[", depth) < 0 and text.endswith(b"]" * depth):
        return (1,) * (depth - 1) + (count,)
    structure = text.translate(None, NUMBERS)
    shape = _first_lengths(structure)
    # Where each array has as many elements as the first of its level, the structure is that one repeated.
    expected = b""
    for length in reversed(shape):
        expected = b"[" + ((expected + b",") * length)[:-1] + b"]"
    return tuple(shape) if structure == expected and prod(shape) == count else None


def _depth(text: bytes) -> int:
    opening = _OPENING.match(text)
    return opening.end() if opening else 0


def _first_lengths(structure: bytes) -> list[int]:
    """How many elements the first array of each level has, the outermost first."""
    depth = _depth(structure)
    lengths: list[int] = []
    element_bytes = 0
    for level in range(1, min(depth, _MOST_RANK) + 1):
        # Where for the first time so many arrays end, the first one of this level does.
        array_bytes = structure.find(b"]" * level) + level - (depth - level)
        lengths.insert(0, max(array_bytes - 1, 0) // (element_bytes + 1))
        element_bytes = max(array_bytes, 0)
    return lengths
