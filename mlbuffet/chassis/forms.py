"""Reads multipart bodies as they come: small fields into memory, one file into whatever takes its bytes.

Strict on purpose: a field that the route does not know, or twice, is an error, because a mistyped field that is
ignored loses what the user meant. Names of files are not looked at.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser, parse_options_header

from mlbuffet.errors import BadMultipartError, TooLargeError

_CHUNK = 1 << 18
_FIELD_BYTES = 1 << 19
_PARTS = 16

FormEvent = MultipartSegment | bytes | bytearray | None


def is_multipart(content_type: str) -> bool:
    """Tell whether a body is multipart/form-data."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


def read_chunks(stream: Any) -> Iterator[bytes]:  # noqa: ANN401 - any readable binary stream
    """A body in pieces."""
    while chunk := stream.read1(_CHUNK):
        yield chunk


def read_form(
    stream: Any,  # noqa: ANN401 - any readable binary stream
    content_type: str,
    *,
    files: Collection[str],
    fields: Collection[str],
    take: Callable[[bytes], object],
) -> dict[str, str]:
    """Read a form with exactly one file, in any of the fields `files`; its bytes go to `take` as they come.

    Returns the text of the other fields.

    Raises:
        BadMultipartError: not well formed, no file or more than one, an unknown or repeated field.
        TooLargeError: too many parts or headers, or a field over 512 KiB.
    """
    reader = _FormReader(frozenset(files), frozenset(fields), take)
    for event in form_events(stream, content_type):
        reader.feed(event)
    return reader.finish()


def form_events(stream: Any, content_type: str, parts: int = _PARTS) -> Iterator[Any]:  # noqa: ANN401 - as above
    """What stands in a form, as it comes: the head of each part, its bytes, and None at its end.

    Raises:
        BadMultipartError: not well formed.
        TooLargeError: too many parts or headers.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get("boundary")
    if not boundary:
        msg = "the Content-Type multipart/form-data comes with a boundary; there is none"
        raise BadMultipartError(msg)
    try:
        with PushMultipartParser(
            boundary, max_segment_count=parts, max_header_count=8, max_header_size=8192, strict=True
        ) as parser:
            for chunk in _with_tail(read_chunks(stream)):
                yield from parser.parse(chunk)
    except ParserLimitReached as error:
        msg = f"a form has at most {parts} parts with 8 short header fields each: {error}"
        raise TooLargeError(msg) from error
    except MultipartError as error:
        msg = f"the multipart body is not well formed: {error}"
        raise BadMultipartError(msg) from error


def _with_tail(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Cut the same bytes so that the last piece holds the end of the form.

    The parser takes a line break after the last boundary for unexpected data when it comes in a piece of its own.
    """
    tail = b""
    for chunk in chunks:
        data = tail + chunk
        tail = data[-8:]
        if len(data) > len(tail):
            yield data[: -len(tail)]
    if tail:
        yield tail


class _FormReader:
    """Sorts a parser's events into file and fields."""

    def __init__(self, files: frozenset[str], fields: frozenset[str], take: Callable[[bytes], object]) -> None:
        self._files = files
        self._fields = fields
        self._take = take
        self._seen_file = False
        self._values: dict[str, bytearray] = {}
        self._field: bytearray | None = None

    def feed(self, event: Any) -> None:  # noqa: ANN401 - the parser has no types
        """Take what comes next."""
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is not None:
            self._content(event)

    def _begin(self, segment: MultipartSegment) -> None:
        name = segment.name
        if name in self._files:
            if self._seen_file:
                msg = f"one file is taken; received a second one in field {name!a}"
                raise BadMultipartError(msg)
            self._seen_file, self._field = True, None
        elif name in self._fields:
            if name in self._values:
                msg = f"the field {name!a} was received twice"
                raise BadMultipartError(msg)
            self._field = self._values[name] = bytearray()
        else:
            known = ", ".join(sorted(self._files | self._fields))
            msg = f"the fields are {known}; received {name[:80]!a}"
            raise BadMultipartError(msg)

    def _content(self, data: bytes | bytearray) -> None:
        if self._field is None:
            self._take(bytes(data))
            return
        self._field += data
        if len(self._field) > _FIELD_BYTES:
            msg = f"a field has at most {_FIELD_BYTES} bytes"
            raise TooLargeError(msg)

    def finish(self) -> dict[str, str]:
        """The fields' text, once all has come."""
        if not self._seen_file:
            msg = f"a file is expected in the field {' or '.join(sorted(self._files))}; there is none"
            raise BadMultipartError(msg)
        try:
            return {name: value.decode() for name, value in self._values.items()}
        except UnicodeDecodeError as error:
            msg = "a field is not UTF-8"
            raise BadMultipartError(msg) from error
