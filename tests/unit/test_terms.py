from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferrer.terms import check_encoding, check_tensor_type, codec_of, tensor_codec, timeout_of
from mlbuffet.channel import Codec
from mlbuffet.errors import BadRequestError, UnsupportedTypeError
from tests.harness.attempt import attempt


@pytest.mark.parametrize(
    "text",
    ["", "application/json", "APPLICATION/JSON", " application/json ; charset=x", "text/json", ";",
     "application/x-www-form-urlencoded"],
)  # fmt: skip
def test_json_by_any_name(text: str) -> None:
    assert codec_of(text) is Codec.BUFFET


@pytest.mark.parametrize("text", ["image/png", "image/jpeg", "IMAGE/WEBP", "image/bmp;x=y", "image/x-ms-bmp"])
def test_pictures_on_the_list(text: str) -> None:
    assert codec_of(text) is Codec.IMAGE


@pytest.mark.parametrize(
    "text", ["image/gif", "image/svg+xml", "image/*", "*/*", "json", "text/plain", "application/jsonx"]
)
def test_other_types_are_refused(text: str) -> None:
    with pytest.raises(UnsupportedTypeError, match="received"):
        codec_of(text)


@given(st.integers(1, 3_600_000), st.floats(1, 100))
def test_milliseconds_from_one_to_an_hour(number: int, default_s: float) -> None:
    assert timeout_of(str(number), default_s) == number / 1000
    assert timeout_of("", default_s) == default_s


@given(st.text() | st.integers().map(str) | st.floats().map(str))
def test_any_other_time_is_an_error_of_the_client(text: str) -> None:
    seconds, error = attempt(lambda: timeout_of(text, 30))
    assert seconds is None or 0.001 <= seconds <= 3600
    if error is not None:
        assert isinstance(error, BadRequestError)
        assert error.message.isascii()
        assert len(error.message) < 1000


@given(st.text())
def test_no_header_raises_anything_else(text: str) -> None:
    for read in (codec_of, check_encoding, check_tensor_type):
        _, error = attempt(partial(read, text))
        if error is not None:
            assert isinstance(error, UnsupportedTypeError)
            assert error.message.isprintable()


def test_only_bodies_as_they_are() -> None:
    for text in ("", "identity", " Identity "):
        check_encoding(text)
    for text in ("gzip", "br", "deflate", "identity, gzip", "gzip, gzip, gzip"):
        with pytest.raises(UnsupportedTypeError):
            check_encoding(text)


def test_v2_takes_json_and_tensors_by_any_of_their_names() -> None:
    for text in ("", "application/json", "application/octet-stream", "Application/Octet-Stream; x=y", "text/json",
                 "application/x-www-form-urlencoded"):  # fmt: skip
        check_tensor_type(text)
    for text in ("image/png", "multipart/form-data; boundary=x", "application/xml", "*/*", "octet-stream"):
        with pytest.raises(UnsupportedTypeError, match="received"):
            check_tensor_type(text)


def test_the_header_length_says_what_a_v2_body_is() -> None:
    assert tensor_codec("8", 14) == (Codec.OIP, 8)
    assert tensor_codec("008", 14) == (Codec.OIP, 8)
    assert tensor_codec("14", 14) == (Codec.OIP, 0)
    assert tensor_codec("0", 14) == (Codec.OIP_RAW, 0)
    assert tensor_codec("0", 0) == (Codec.OIP_RAW, 0)


@pytest.mark.parametrize("text", ["15", "-1", "+8", "8.0", "8,8", "", " ", "8 ", "abc", "0x8", "\u00b2", "9" * 5000])
def test_a_header_length_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError, match="Inference-Header-Content-Length") as caught:
        tensor_codec(text, 14)
    assert len(caught.value.message) < 300
    assert caught.value.message.isascii()


@given(st.text() | st.integers().map(str), st.integers(0, 1 << 26))
def test_any_header_length_is_within_the_body_or_an_error_of_the_client(text: str, body_bytes: int) -> None:
    found, error = attempt(partial(tensor_codec, text, body_bytes))
    assert isinstance(error, BadRequestError) or (found is not None and 0 <= found[1] < max(body_bytes, 1))
