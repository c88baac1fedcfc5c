"""Content codings: bodies inflated within bounds, and what a client wants its answer in."""

import gzip
import io
import zlib
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbuffet.chassis.compression import Inflated, coding_headers, compress, read_coding, wanted_coding
from mlbuffet.errors import BadRequestError, MLBuffetError, TooLargeError, UnsupportedTypeError
from tests.harness.attempt import attempt

MIB = 1 << 20
ENCODE: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
codings = st.sampled_from(sorted(ENCODE))


class Pieces(io.RawIOBase):
    """A stream that gives what it has in pieces of a size; counts what it gave."""

    def __init__(self, data: bytes, size: int = 1 << 16) -> None:
        super().__init__()
        self._data = io.BytesIO(data)
        self._size = size
        self.given = 0

    def read1(self, most: int) -> bytes:
        """The next piece."""
        piece = self._data.read(min(most, self._size))
        self.given += len(piece)
        return piece


def inflate(data: bytes, coding: str, most: int = MIB, *, size: int = 1 << 16) -> bytes:
    return io.BufferedReader(Inflated(Pieces(data, size), coding, MIB)).read(most)


@given(st.binary(max_size=5000), codings, st.integers(1, 100), st.integers(1, 50))
def test_what_was_compressed_comes_back_however_it_is_cut(body: bytes, coding: str, size: int, repeats: int) -> None:
    data = ENCODE[coding](body * repeats)
    assert inflate(data, coding, size=size) == body * repeats
    assert inflate(compress(body * repeats, coding), coding) == body * repeats


def test_a_bomb_is_inflated_only_as_far_as_it_is_read() -> None:
    bomb = gzip.compress(bytes(50 * MIB))
    source = Pieces(bomb, 1 << 12)
    assert len(io.BufferedReader(Inflated(source, "gzip", MIB)).read(MIB)) == MIB
    assert source.given < len(bomb) / 10


def test_blocks_that_hold_nothing_come_to_an_end() -> None:
    empty = b"\x00\x00\x00\xff\xff"
    endless = zlib.compress(b"", 0)[:2] + empty * (2 * MIB)
    source = Pieces(endless)
    _, error = attempt(partial(Inflated(source, "deflate", MIB).read, 10))
    assert isinstance(error, TooLargeError)
    assert source.given <= MIB + (1 << 16)


@given(st.binary(max_size=300), codings)
def test_what_is_no_such_format_is_an_error_of_the_client(data: bytes, coding: str) -> None:
    _, error = attempt(partial(inflate, data, coding))
    assert error is None or isinstance(error, BadRequestError)


@given(st.binary(min_size=1, max_size=300), codings, st.integers(1, 100), st.data())
def test_a_body_that_is_cut_changed_or_goes_on_is_refused(
    body: bytes, coding: str, size: int, data: st.DataObject
) -> None:
    whole = ENCODE[coding](body)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for wrong in (whole[:cut], whole + b"\0", whole + whole):
        with pytest.raises(BadRequestError):
            inflate(wrong, coding, size=size)
    changed = whole[:-1] + bytes([whole[-1] ^ 1])  # of the checksum, or the length
    with pytest.raises(BadRequestError):
        inflate(changed, coding)


def test_bare_deflate_is_not_what_deflate_means() -> None:
    with pytest.raises(BadRequestError, match="deflate"):
        inflate(zlib.compress(b'{"values": [1]}', wbits=-15), "deflate")


def test_codings_by_name() -> None:
    for text in ("", "identity", " Identity "):
        assert read_coding(text) == ""
    for text in ("gzip", "GZIP", " x-gzip "):
        assert read_coding(text) == "gzip"
    assert read_coding("deflate") == "deflate"
    for text in ("br", "zstd", "gzip, gzip, gzip", "gzip,gzip", "identity, gzip", "gzip;q=1", "gzip" * 500):
        with pytest.raises(UnsupportedTypeError):
            read_coding(text)


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("", ""),
        ("identity", ""),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("deflate, gzip", "gzip"),
        ("br, GZIP ;q=0.5", "gzip"),
        ("gzip;q=0.5, deflate;q=0.9", "deflate"),
        ("gzip;q=0", ""),
        ("gzip;q=0, *", "deflate"),
        ("*", "gzip"),
        ("*;q=0", ""),
        ("*;q=0, gzip", "gzip"),
        ("identity, gzip;q=0.5", ""),
        ("identity;q=0.5, gzip;q=0.8", "gzip"),
        ("gzip;q=1.0", "gzip"),
        ("gzip;q=2", ""),
        ("gzip;q=-1", ""),
        ("gzip;q=nan", ""),
        ("gzip;q=1e0", ""),
        ("gzip;x=1", ""),
        ("gzip;q=\u00b2", ""),
        ("br", ""),
        (",", ""),
    ],
)
def test_the_coding_that_a_client_wants(accept: str, coding: str) -> None:
    assert wanted_coding(accept) == coding


@given(st.text())
def test_no_header_raises_anything_else(text: str) -> None:
    assert wanted_coding(text) in {"", "gzip", "deflate"}
    _, error = attempt(partial(read_coding, text))
    assert error is None or isinstance(error, MLBuffetError)
    if error is not None:
        assert error.message.isprintable()


def test_an_answer_says_what_it_depends_on() -> None:
    assert coding_headers("") == [("Vary", "Accept-Encoding")]
    assert coding_headers("gzip") == [("Vary", "Accept-Encoding"), ("Content-Encoding", "gzip")]
