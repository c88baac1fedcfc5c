"""Forms are read whole or refused, however their bytes are cut on the way."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbuffet.chassis.forms import is_multipart, read_form
from mlbuffet.errors import BadMultipartError, MLBuffetError, TooLargeError
from tests.harness.upload_client import multipart

TYPE = "multipart/form-data; boundary=limit"


class Cut(io.BytesIO):
    """A stream that gives its bytes in pieces of the sizes told, then as they come."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        super().__init__(data)
        self._sizes = list(sizes)

    def read1(self, size: int | None = -1, /) -> bytes:
        """The next piece."""
        return super().read1(self._sizes.pop(0) if self._sizes else size)


def _read(data: bytes, sizes: list[int] | None = None, content_type: str = TYPE) -> tuple[bytes, dict[str, str]]:
    taken: list[bytes] = []
    fields = read_form(
        Cut(data, sizes or []), content_type, files=("path", "file"), fields=("text", "image"), take=taken.append
    )
    return b"".join(taken), fields


contents = st.binary(max_size=300) | st.text("\r\n-limt", max_size=60).map(str.encode)
cuts = st.lists(st.integers(1, 40), max_size=60)


@settings(deadline=None)
@given(contents, st.text(st.characters(codec="utf-8"), max_size=60), cuts)
def test_any_content_in_any_pieces(content: bytes, text: str, sizes: list[int]) -> None:
    if b"\r\n--limit" in b"\r\n" + content or "\r\n--limit" in "\r\n" + text:
        return
    data = multipart(('name="text"', text.encode()), ('name="path"; filename="x"', content))
    assert _read(data, sizes) == (content, {"text": text})


@settings(deadline=None)
@given(contents, cuts, st.integers(0, 400))
def test_a_cut_form_is_refused(content: bytes, sizes: list[int], length: int) -> None:
    if b"\r\n--limit" in b"\r\n" + content:
        return
    data = multipart(('name="path"; filename="x"', content))
    end = len(data) - len(b"--\r\n")  # from here on only what marks the end is missing
    with pytest.raises(BadMultipartError):
        _read(data[: min(length, end)], sizes)


@settings(deadline=None)
@given(st.binary(max_size=300), cuts)
def test_rubbish_is_refused_in_our_words(data: bytes, sizes: list[int]) -> None:
    with pytest.raises(MLBuffetError):
        _read(data, sizes)


@pytest.mark.parametrize("name", ["path", "file"])
def test_either_file_field(name: str) -> None:
    assert _read(multipart((f'name="{name}"; filename="x"', b"data"))) == (b"data", {})


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [('name="text"', b"a")],
        [('name="path"; filename="a"', b""), ('name="file"; filename="b"', b"")],
        [('name="path"; filename="a"', b""), ('name="other"', b"")],
        [('name="path"; filename="a"', b""), ('name="text"', b""), ('name="text"', b"")],
        [('name="path"; filename="a"', b""), ('name="text"', b"\xff")],
    ],
)
def test_wrong_fields(parts: list[tuple[str, bytes]]) -> None:
    with pytest.raises(BadMultipartError):
        _read(multipart(*parts))


def test_sizes() -> None:
    file = ('name="path"; filename="a"', b"x")
    assert _read(multipart(file, ('name="text"', b"a" * (1 << 19))))[1] == {"text": "a" * (1 << 19)}
    with pytest.raises(TooLargeError):
        _read(multipart(file, ('name="text"', b"a" * ((1 << 19) + 1))))
    with pytest.raises(MLBuffetError):
        _read(multipart(file, *[('name="text"', b"")] * 17))


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=", "text/plain"])
def test_without_a_boundary(content_type: str) -> None:
    with pytest.raises(BadMultipartError):
        _read(multipart(('name="path"; filename="a"', b"x")), content_type=content_type)


def test_which_bodies_are_forms() -> None:
    assert is_multipart("multipart/form-data; boundary=x")
    assert is_multipart(" Multipart/Form-Data;boundary=x")
    assert not is_multipart("multipart/mixed; boundary=x")
    assert not is_multipart("")
