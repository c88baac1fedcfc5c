"""Files to and from an engine as a tar stream, written and read piece by piece. What comes is never followed."""

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_PIECE = 1 << 18
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class File:
    """A file, or with neither content a folder, as it is to stand in a container."""

    name: str
    path: Path | None = None
    data: bytes | None = None
    owner: int = 0
    mode: int = 0o644


def folder_of(name: str, owner: int = 0) -> File:
    """A folder to be made."""
    return File(name, owner=owner, mode=0o755)


def pack(files: Iterable[File]) -> Iterator[bytes]:
    """A tar stream of files."""
    for file in files:
        info = tarfile.TarInfo(file.name)
        info.uid = info.gid = file.owner
        info.mode = file.mode
        if file.path is not None:
            with file.path.open("rb") as source:
                info.size = file.path.stat().st_size
                yield info.tobuf()
                yield from _exactly(source, info.size)
        elif file.data is not None:
            info.size = len(file.data)
            yield info.tobuf() + file.data
        else:
            info.type = tarfile.DIRTYPE
            yield info.tobuf()
        yield bytes(-info.size % _BLOCK)
    yield bytes(2 * _BLOCK)


def _exactly(source: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        piece = source.read(min(_PIECE, size))
        if not piece:
            msg = "a file became shorter while it was read"
            raise OSError(msg)
        size -= len(piece)
        yield piece


class _Stream:
    """A readable stream made of pieces."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def read(self, size: int) -> bytes:
        """As many bytes as asked for, unless it ends."""
        parts, missing = [], size
        while missing:
            self._rest = self._rest or next(self._pieces, b"")
            if not self._rest:
                break
            parts.append(self._rest[:missing])
            self._rest = self._rest[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)


def unpack_file(pieces: Iterable[bytes], target: BinaryIO, most_bytes: int) -> bool:
    """Write the one regular file of a tar stream; False when there is another thing, or it is larger.

    Raises:
        OSError: what came is no tar stream, or not whole.
    """
    try:
        with tarfile.open(fileobj=_Stream(pieces), mode="r|") as archive:  # type: ignore[call-overload]
            member = archive.next()
            if member is None or not member.isreg() or member.size > most_bytes:
                return False
            source = archive.extractfile(member)
            assert source is not None  # noqa: S101 - it is a regular file
            while piece := source.read(_PIECE):
                target.write(piece)
            return True
    except tarfile.TarError as error:
        msg = f"the engine sent no file: {error}"
        raise OSError(msg) from error
