"""Pictures: which formats are opened, and how pixels become numbers."""

import io
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlbuffet.errors import UnsupportedTypeError
from mlbuffet.manifest import ImageSettings, Signature, TensorSpec
from modelhost.codecs import image
from modelhost.codecs.image import labels_of
from modelhost.codecs.request import Decoded, Served
from modelhost.runtimes.onnx import DTYPES
from tests.harness.attempt import attempt

COLOURS = Signature((TensorSpec("image", "FP32", (None, 3, 2, 2)),), (TensorSpec("y", "FP32", (None,)),))


@pytest.fixture(scope="module", autouse=True)
def _errors_as_in_a_runner() -> Iterator[None]:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        yield


def decode(data: bytes, signature: Signature, settings: ImageSettings | None = None) -> Decoded:
    options = orjson.dumps({"image": asdict(settings or ImageSettings())})
    return image.decode(memoryview(options + data), len(options), Served("m", 1, signature))


def encoded(kind: str, **options: Any) -> bytes:  # noqa: ANN401 - as Pillow takes them
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (10, 20, 30)).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Every format but those on the list, when Pillow tries to open it."""
    Image.init()
    tried: list[str] = []
    before = dict(Image.OPEN)

    def watched(name: str) -> tuple[Any, Any]:
        def accept(_: bytes) -> bool:
            tried.append(name)
            return True

        return (lambda *_: tried.append(name)), accept

    for name in before:
        if name not in {"PNG", "JPEG", "WEBP", "BMP"}:
            Image.OPEN[name] = watched(name)
    yield tried
    Image.OPEN.clear()
    Image.OPEN.update(before)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PDF", "ICO", "PPM", "TGA", "ICNS", "PCX", "EPS", "DDS"])
def test_only_formats_on_the_list_are_tried(kind: str, opened: list[str]) -> None:
    with pytest.raises(UnsupportedTypeError):
        decode(encoded(kind), COLOURS)
    assert opened == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "MPO"])
def test_formats_on_the_list_open_without_trying_others(kind: str, opened: list[str]) -> None:
    feeds = decode(encoded(kind), COLOURS).feeds
    np.testing.assert_allclose(feeds["image"].mean(axis=(0, 2, 3)), [10, 20, 30], atol=4)
    assert opened == []


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"BM", b"GIF89a"])
)
def test_any_bytes_are_a_picture_or_an_error_of_ours(data: bytes, magic: bytes) -> None:
    _, error = attempt(lambda: decode(magic + data, COLOURS))
    assert error is None or error.status in {400, 413, 415}


@given(
    st.integers(0, 255),
    st.floats(-10, 10, width=32),
    st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=1) | st.just([]),
    st.sampled_from([[], [1.0], [0.5], [2.0]]),
    st.sampled_from(sorted(set(DTYPES) - {"BOOL", "BYTES"})),
)
def test_a_pixel_is_scaled_centred_spread_and_cut_off(
    pixel: int, scale: float, mean: list[float], std: list[float], datatype: str
) -> None:
    taken = Signature((TensorSpec("image", datatype, (None, 2, 2, 1)),), COLOURS.outputs)
    file = io.BytesIO()
    Image.new("L", (2, 2), pixel).save(file, "PNG")
    settings = ImageSettings(scale, tuple(mean), tuple(std))
    feeds = decode(file.getvalue(), taken, settings).feeds
    array, dtype = feeds["image"], DTYPES[datatype]
    assert (array.shape, array.dtype) == ((1, 2, 2, 1), dtype)
    value = np.float32(pixel) * np.float32(scale)
    for number in mean:
        value = value - np.float32(number)
    for number in std:
        value = value / np.float32(number)
    if dtype.kind == "f":
        np.testing.assert_allclose(array.astype(float), float(value), rtol=2e-3, atol=1e-3)
    else:
        limits = np.iinfo(dtype)
        assert set(array.ravel().tolist()) == {min(max(int(np.rint(value)), limits.min), limits.max)}


@pytest.mark.parametrize("datatype", ["INT32", "INT64", "UINT32", "UINT64"])
def test_long_integers_end_at_their_limits(datatype: str) -> None:
    taken = Signature((TensorSpec("image", datatype, (None, 2, 2, 3)),), COLOURS.outputs)
    limits = np.iinfo(DTYPES[datatype])
    for scale, expected in ((1e30, limits.max), (-1e30, limits.min)):
        feeds = decode(encoded("PNG"), taken, ImageSettings(scale)).feeds
        assert set(feeds["image"].ravel().tolist()) == {expected}


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (np.array([1, 0]), ["b", "a"]),
        (np.array([[0.1, 0.9], [0.9, 0.1]]), ["b", "a"]),
        (np.array([[0.1, 0.2, 0.7]]), ["2"]),
        (np.array([-1, 5]), ["-1", "5"]),
        (np.array([["x"]], object), None),
        (np.zeros((1, 2, 2)), None),
        ([{"a": 1}], None),
    ],
)
def test_labels(first: object, expected: list[str] | None) -> None:
    assert labels_of(first, ("a", "b")) == ({} if expected is None else {"labels": expected})
    assert labels_of(first, ()) == {}
