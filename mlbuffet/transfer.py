"""What the client sends: files as bodies, read piece by piece and sent again from their beginning; JSON from arrays."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import uuid4

from mlbuffet.errors import DigestMismatchError, InvalidJSONError

Source = str | os.PathLike[str] | bytes | IO[bytes]
Progress = Callable[[int, int], object]  # bytes done, bytes in all

CHUNK_BYTES = 1 << 18


@contextlib.contextmanager
def opened(source: Source) -> Iterator[IO[bytes]]:
    """A file that can be rewound; a stream that cannot is first copied into a temporary one."""
    with contextlib.ExitStack() as stack:
        if isinstance(source, bytes | bytearray | memoryview):
            file: IO[bytes] = io.BytesIO(source)
        elif isinstance(source, str | os.PathLike):
            file = stack.enter_context(Path(source).open("rb"))
        else:
            file = source
        if not file.seekable():
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            file = copy
        yield file


@dataclass(frozen=True, slots=True)
class Form:
    """What stands before and after the file in a multipart body."""

    head: bytes
    tail: bytes
    content_type: str


def form(file_field: str, fields: Mapping[str, str]) -> Form:
    """A form with text fields and, last, one file."""
    boundary = uuid4().hex
    opening = f'--{boundary}\r\nContent-Disposition: form-data; name="'
    texts = "".join(f'{opening}{name}"\r\n\r\n{value}\r\n' for name, value in fields.items())
    head = f'{texts}{opening}{file_field}"; filename="file"\r\nContent-Type: application/octet-stream\r\n\r\n'
    return Form(head.encode(), f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}")


class Body:
    """A file as a request's body, alone or in a form: read piece by piece, from its beginning each time it is sent."""

    def __init__(self, file: IO[bytes], form: Form | None, progress: Progress | None) -> None:
        self._file = file
        self._form = form or Form(b"", b"", "application/octet-stream")
        self._progress = progress
        self._start = file.tell()
        self._hash = hashlib.sha256()
        while chunk := file.read(CHUNK_BYTES):
            self._hash.update(chunk)
        self._size = file.tell() - self._start

    @property
    def digest(self) -> str:
        """The file's SHA-256 in hex digits."""
        return self._hash.hexdigest()

    @property
    def headers(self) -> dict[str, str]:
        """The header fields that the body needs."""
        return {"Content-Type": self._form.content_type}

    def __len__(self) -> int:
        return len(self._form.head) + self._size + len(self._form.tail)

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(self._start)
        yield self._form.head
        left = self._size
        while chunk := self._file.read(min(CHUNK_BYTES, left)):
            left -= len(chunk)
            yield chunk
            if self._progress is not None:
                self._progress(self._size - left, self._size)
        if left:
            msg = "the file became shorter while it was sent"
            raise DigestMismatchError(msg)
        yield self._form.tail


@dataclass(frozen=True, slots=True)
class FilePart:
    """One file in a form of several."""

    field: str
    name: str
    file: IO[bytes]


class Files:
    """A form of texts and files as a request's body: read piece by piece, from the beginning each time it is sent."""

    def __init__(self, fields: Mapping[str, str], parts: Sequence[FilePart]) -> None:
        boundary = uuid4().hex
        opening = f'--{boundary}\r\nContent-Disposition: form-data; name="'
        self._texts = "".join(f'{opening}{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()).encode()
        self._parts: list[tuple[bytes, IO[bytes], int, int]] = []
        for part in parts:
            head = (
                f'{opening}{part.field}"; filename="{_quoted(part.name)}"\r\nContent-Type: application/octet-stream\r\n'
            )
            start = part.file.tell()
            self._parts.append((f"{head}\r\n".encode(), part.file, start, part.file.seek(0, os.SEEK_END) - start))
        self._tail = f"--{boundary}--\r\n".encode()
        self.content_type = f"multipart/form-data; boundary={boundary}"

    def __len__(self) -> int:
        sizes = (len(head) + size_bytes + len(b"\r\n") for head, _, _, size_bytes in self._parts)
        return len(self._texts) + sum(sizes) + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._texts
        for head, file, start, size_bytes in self._parts:
            yield head
            file.seek(start)
            left = size_bytes
            while left and (chunk := file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk
            if left:
                msg = "a file became shorter while it was sent"
                raise DigestMismatchError(msg)
            yield b"\r\n"
        yield self._tail


def _quoted(name: str) -> str:
    """A file's name as browsers write it into a form."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def dumps(value: object) -> bytes:
    """JSON, with whatever has a `tolist` as the list it gives: arrays need no import here.

    Raises:
        InvalidJSONError: NaN, infinities, values that hold themselves.
    """
    try:
        return json.dumps(value, default=_plain, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:
        msg = f"the values have no form in JSON: {error}"
        raise InvalidJSONError(msg) from error


def _plain(value: object) -> object:
    if hasattr(value, "tolist"):
        return value.tolist()
    msg = f"a {type(value).__name__} has no form in JSON"
    raise TypeError(msg)
