"""Reads protobuf's wire format where it lies: which fields a message has and where, without making copies of them.

It decides nothing about models. Large contents cost nothing here: they are skipped by their length. What is not
well-formed, or says twice what can be said once, is refused: two parsers could understand it differently.
https://protobuf.dev/programming-guides/encoding/
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from mlbuffet.errors import InvalidModelError, ModelTooComplexError

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_BYTE = 0x80
_VARINT_BITS = 70
_UINT64 = (1 << 64) - 1


class Span(NamedTuple):
    """Where a content begins and ends."""

    begin: int
    end: int

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self.end - self.begin


class Field(NamedTuple):
    """A field that is looked at, and how often one message may have it."""

    name: str
    most: int = 1


class Message:
    """The fields of one message that were asked for, by name and in order."""

    __slots__ = ("numbers", "spans")

    def __init__(self) -> None:
        self.numbers: dict[str, list[int]] = {}
        self.spans: dict[str, list[Span]] = {}

    def number(self, name: str) -> int:
        """A number that is there once, or 0."""
        return self.numbers.get(name, (0,))[0]

    def all(self, *names: str) -> list[Span]:
        """The contents of these fields."""
        return [span for name in names for span in self.spans.get(name, ())]


def read_message(data: bytes, span: Span, fields: Mapping[int, Field]) -> Message:
    """Read one message's fields as far as they are asked for.

    Raises:
        InvalidModelError: this is no message, or it has a field twice that it may have once.
        ModelTooComplexError: it has a field more often than it may.
    """
    found = Message()
    at, end = span
    while at < end:
        tag, begin = _read_tag(data, at, end)
        field, kind = fields.get(tag >> 3), tag & 7
        if field is None and kind != _LENGTH and tag < _BYTE:
            at = _skip_run(data, at, end, tag)
            continue
        value, content = _read_content(data, begin, end, kind)
        at = content.end
        if field is None:
            continue
        if kind == _LENGTH:
            _add(found.spans.setdefault(field.name, []), content, field)
        else:
            _add(found.numbers.setdefault(field.name, []), value, field)
    return found


def read_numbers(data: bytes, span: Span, field: Field) -> list[int]:
    """Read packed whole numbers, unsigned.

    Raises:
        InvalidModelError, ModelTooComplexError: as for a message.
    """
    numbers: list[int] = []
    at = span.begin
    while at < span.end:
        value, at = _read_varint(data, at, span.end)
        _add(numbers, value, field)
    return numbers


def _add(values: list[Any], value: object, field: Field) -> None:
    if len(values) >= field.most:
        if field.most == 1:
            msg = f"the file is not a model: one of its parts has the field {field.name} twice"
            raise InvalidModelError(msg)
        msg = f"one part of the model has the field {field.name} more than {field.most:,} times"
        raise ModelTooComplexError(msg)
    values.append(value)


def _read_tag(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A field's number and kind in one, and where its content begins."""
    tag = data[at]
    tag, begin = (tag, at + 1) if tag < _BYTE else _read_varint(data, at, end)
    if not tag >> 3:
        raise _malformed(at)
    return tag, begin


def _read_content(data: bytes, at: int, end: int, kind: int) -> tuple[int, Span]:
    """A field's value, if it is a number, and where its content lies."""
    if kind == _VARINT:
        value, after = _read_varint(data, at, end)
        return value, Span(at, after)
    if kind == _LENGTH:
        size, at = _read_varint(data, at, end)
    else:
        size = _FIXED_BYTES.get(kind, end)  # groups left protobuf before ONNX was there
    if size > end - at:
        raise _malformed(at)
    content = Span(at, at + size)
    return (0 if kind == _LENGTH else int.from_bytes(data[at : content.end], "little")), content


def _read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < _VARINT_BITS:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < _BYTE:
            return value & _UINT64, at
        shift += 7
    raise _malformed(at)


def _skip_run(data: bytes, at: int, end: int, tag: int) -> int:
    """Skip a number and all that follow it in the same field: the trees of a forest are millions of such."""
    run = _run(tag)
    found = run.match(data, at, end) if run else None
    if found is None:
        raise _malformed(at)
    return found.end()


@cache
def _run(tag: int) -> re.Pattern[bytes] | None:
    """Numbers of one field; possessive, so that a long run takes no memory."""
    bodies = {_VARINT: rb"[\x80-\xff]{0,9}+[\x00-\x7f]", _FIXED64: rb".{8}", _FIXED32: rb".{4}"}
    body = bodies.get(tag & 7)
    return re.compile(rb"(?:%b%b)++" % (re.escape(bytes([tag])), body), re.DOTALL) if body else None


def _malformed(at: int) -> InvalidModelError:
    return InvalidModelError(f"the file is not a model: byte {at} does not continue a protobuf message")
