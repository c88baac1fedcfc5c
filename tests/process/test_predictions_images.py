"""Row P16: predictions from pictures, of the formats on the list and no others."""

import gzip
import io
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
from numpy.typing import NDArray
from PIL import Image

from tests.harness.onnx_models import identity, image_mean
from tests.harness.platform import SAMPLES, RunningPlatform
from tests.harness.zoo import DATATYPES, zoo_platform

HEIGHT, WIDTH = 4, 6
Pixels = NDArray[np.uint8]
FP32 = DATATYPES["FP32"]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    models = {
        "first": identity(FP32, ["N", 3, HEIGHT, WIDTH]),
        "last": identity(FP32, ["N", HEIGHT, WIDTH, 3]),
        "grey": identity(FP32, ["N", 1, HEIGHT, WIDTH]),
        "free": identity(FP32, ["N", 3, None, None]),
        "bytes": identity(DATATYPES["UINT8"], ["N", HEIGHT, WIDTH, 3]),
        "small": identity(DATATYPES["INT8"], ["N", HEIGHT, WIDTH, 3]),
        "half": identity(DATATYPES["FP16"], ["N", 3, HEIGHT, WIDTH]),
        "mean": image_mean(),
    }
    with zoo_platform(tmp_path_factory.mktemp("zoo"), models, modelhosts=1) as platform:
        yield platform


def noise(height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> Pixels:
    return np.random.default_rng(5).integers(0, 256, (height, width, channels), np.uint8)


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 - as Pillow takes them
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png(pixels: Pixels) -> bytes:
    return encoded(Image.fromarray(pixels.squeeze()), "PNG")


def send_form(platform: RunningPlatform, name: str, parts: Any) -> requests.Response:  # noqa: ANN401 - as requests takes them
    return requests.post(f"{platform.path(name)}/prediction", files=parts, timeout=30)


def upload(platform: RunningPlatform, name: str, parts: Any) -> requests.Response:  # noqa: ANN401 - as requests takes them
    return requests.put(platform.path(name), files=parts, timeout=30)


def send(platform: RunningPlatform, name: str, data: bytes, kind: str = "image/png") -> requests.Response:
    return requests.post(f"{platform.path(name)}/prediction", data=data, headers={"Content-Type": kind}, timeout=30)


def pixels_of(answer: requests.Response) -> NDArray[Any]:
    """The picture as the model got it, [H, W, C]."""
    assert answer.status_code == 200, answer.text
    array: NDArray[Any] = np.array(answer.json()["values"])[0]
    return array if array.shape[-1] == 3 else array.transpose(1, 2, 0)


def refused(answer: requests.Response, status: int, code: str) -> None:
    data = answer.json()
    assert (answer.status_code, data["error"]["code"]) == (status, code), data


@pytest.mark.parametrize("name", ["first", "last", "free", "bytes"])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_pixels_reach_the_model_whatever_its_axis_order(name: str, kind: str, zoo: RunningPlatform) -> None:
    data = encoded(Image.fromarray(noise()), kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(pixels_of(send(zoo, name, data, f"image/{kind.lower()}")), noise())


@pytest.mark.parametrize("field", ["file", "path"])
def test_a_form_field_is_as_good_as_the_raw_body(field: str, zoo: RunningPlatform) -> None:
    form = send_form(zoo, "first", {field: ("x.exe", png(noise()), "text/plain")})
    np.testing.assert_array_equal(pixels_of(form), noise())
    refused(send_form(zoo, "first", {"picture": png(noise())}), 400, "BAD_MULTIPART")
    both = send_form(zoo, "first", [("file", png(noise())), ("path", png(noise()))])
    refused(both, 400, "BAD_MULTIPART")
    refused(send_form(zoo, "first", {"outputs": (None, "all")}), 400, "BAD_MULTIPART")
    named = send_form(zoo, "first", {field: png(noise()), "outputs": (None, "y")})
    assert list(named.json()["outputs"]) == ["y"]
    refused(send_form(zoo, "first", {field: png(noise()), "outputs": (None, "z")}), 400, "INVALID_OUTPUT")
    refused(send_form(zoo, "first", {field: png(noise()), "outputs": (None, "")}), 400, "INVALID_OUTPUT")


def test_the_content_decides_not_the_name_of_its_type(zoo: RunningPlatform) -> None:
    np.testing.assert_array_equal(pixels_of(send(zoo, "first", png(noise()), "image/jpeg")), noise())


def test_a_picture_is_resized_to_the_models_size(zoo: RunningPlatform) -> None:
    large = Image.fromarray(noise(40, 30))
    expected = np.asarray(large.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pixels_of(send(zoo, "first", encoded(large, "PNG"))), expected)
    assert pixels_of(send(zoo, "free", encoded(large, "PNG"))).shape == (40, 30, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(orientation: int, zoo: RunningPlatform) -> None:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    picture = Image.fromarray(noise())
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture.transpose(turns[orientation]) if orientation in turns else picture
    np.testing.assert_array_equal(pixels_of(send(zoo, "free", encoded(stored, "PNG", exif=exif))), noise())
    photo = encoded(stored.resize((stored.width * 16, stored.height * 16)), "JPEG", exif=exif, quality=95)
    assert pixels_of(send(zoo, "free", photo, "image/jpeg")).shape == (HEIGHT * 16, WIDTH * 16, 3)


def test_every_kind_of_pixel_is_understood(zoo: RunningPlatform) -> None:
    colours, grey = noise(), noise(channels=1)
    opaque = np.dstack([colours, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    deep = grey[..., 0].astype(np.uint16) * 257
    palette = Image.fromarray(colours).quantize(24)
    black_or_white = Image.fromarray(grey[..., 0]).convert("1")
    cases = [
        (encoded(Image.fromarray(opaque), "PNG"), colours),
        (encoded(palette, "PNG"), np.asarray(palette.convert("RGB"))),
        (png(grey), np.repeat(grey, 3, axis=2)),
        (encoded(Image.fromarray(deep), "PNG"), np.repeat(grey, 3, axis=2)),
        (encoded(black_or_white, "PNG"), np.asarray(black_or_white.convert("RGB"))),
    ]
    for data, expected in cases:
        np.testing.assert_array_equal(pixels_of(send(zoo, "first", data)), expected)
    wide = Image.fromarray(noise(64, 96)).resize((96, 64))
    photo = encoded(wide.convert("CMYK"), "JPEG", quality=95)
    with Image.open(io.BytesIO(photo)) as decoded:
        expected = np.asarray(decoded.convert("RGB"))
    np.testing.assert_array_equal(pixels_of(send(zoo, "free", photo, "image/jpeg")), expected)
    for data in (png(grey), encoded(Image.fromarray(deep), "PNG")):
        np.testing.assert_array_equal(pixels_of(send(zoo, "grey", data)), grey)
    expected = np.asarray(Image.fromarray(colours).convert("L"))[..., np.newaxis]
    np.testing.assert_array_equal(pixels_of(send(zoo, "grey", png(colours))), expected)


def with_settings(zoo: RunningPlatform, name: str, settings: object) -> requests.Response:
    return requests.post(zoo.path(name), json={"image": settings}, timeout=10)


def test_settings_are_given_with_the_upload_and_changed_by_post(zoo: RunningPlatform) -> None:
    first = {"scale": 0.5, "mean": [1, 2, 3], "std": [2, 4, 8], "labels": ["red", "green", "blue"]}
    files = {"path": image_mean(), "image": (None, json.dumps(first))}
    assert upload(zoo, "pictures", files).status_code == 201
    pixels = np.full((8, 8, 3), (40, 80, 160), np.uint8)
    data = send(zoo, "pictures", png(pixels)).json()
    assert data["values"] == [[(20 - 1) / 2, (40 - 2) / 4, (80 - 3) / 8]]
    assert data["labels"] == ["blue"], "the largest value's"
    assert with_settings(zoo, "pictures", {"scale": -1, "labels": ["red"]}).status_code == 200
    data = send(zoo, "pictures", png(pixels)).json()
    assert (data["values"], data["labels"]) == ([[-40, -80, -160]], ["red"])
    assert with_settings(zoo, "pictures", {"scale": 1, "labels": ["red"]}).status_code == 200
    assert send(zoo, "pictures", png(pixels)).json()["labels"] == ["2"], "a class without a label is its number"
    assert with_settings(zoo, "pictures", {}).status_code == 200
    data = send(zoo, "pictures", png(pixels)).json()
    assert data["values"] == [[40, 80, 160]]
    assert "labels" not in data
    assert zoo.predict("pictures", [np.zeros((3, 8, 8)).tolist()]).json()["values"] == [[0, 0, 0]]


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": "1"}, {"scale": True}, {"mean": 1}, {"mean": [1, 2, 3, 4, 5]}, {"std": [0]}, {"std": [1, "x"]},
        {"labels": "abc"}, {"labels": [1]}, {"size": 3}, [], "x", 5,
    ],
)  # fmt: skip
def test_settings_that_are_none_are_refused(settings: object, zoo: RunningPlatform) -> None:
    refused(with_settings(zoo, "mean", settings), 422, "INVALID_FIELD")
    files = {"path": image_mean(), "image": (None, json.dumps(settings))}
    refused(upload(zoo, "mean", files), 422, "INVALID_FIELD")


@pytest.mark.parametrize("name", ["first", "half"])
def test_settings_beyond_the_range_of_the_input_are_no_crash(name: str, zoo: RunningPlatform) -> None:
    for settings in ({"scale": 1e300}, {"scale": 1e38}, {"std": [1e-300]}, {"std": [1e-40]}, {"mean": [1e300]}):
        assert with_settings(zoo, name, settings).status_code == 200
        refused(send(zoo, name, png(noise() | np.uint8(4))), 400, "INVALID_VALUE")
    assert with_settings(zoo, name, {"mean": [1, 2]}).status_code == 200
    refused(send(zoo, name, png(noise())), 400, "BAD_REQUEST")
    assert with_settings(zoo, name, {}).status_code == 200
    np.testing.assert_array_equal(pixels_of(send(zoo, name, png(noise()))), noise())


def test_whole_numbers_are_cut_off_at_the_ends_of_their_range(zoo: RunningPlatform) -> None:
    np.testing.assert_array_equal(pixels_of(send(zoo, "small", png(noise()))), np.minimum(noise(), 127))
    with_settings(zoo, "bytes", {"scale": 2, "mean": [100]}).raise_for_status()
    expected = np.clip(noise().astype(int) * 2 - 100, 0, 255)
    np.testing.assert_array_equal(pixels_of(send(zoo, "bytes", png(noise()))), expected)
    with_settings(zoo, "bytes", {}).raise_for_status()


@pytest.mark.parametrize(
    ("name", "file", "label"),
    [
        ("digits.onnx", "seven.png", "7"),
        ("pictures.onnx", "flower.jpg", "flower"),
        ("pictures.onnx", "china.jpg", "china"),
    ],
)
def test_the_samples_recognise_their_pictures(name: str, file: str, label: str, zoo: RunningPlatform) -> None:
    data = (SAMPLES / "images" / file).read_bytes()
    assert send(zoo, name, data).json()["labels"] == [label]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def crafted_png(width: int, height: int) -> bytes:
    """A PNG of that size by its head, whatever its data say."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


FITS = b"SIMPLE  =                    T".ljust(80) + b"END".ljust(80)
FOREIGN = {
    "gif": encoded(Image.fromarray(noise()), "GIF"),
    "tiff": encoded(Image.fromarray(noise()), "TIFF"),
    "tiff in jpeg": encoded(Image.fromarray(noise(32, 32)), "TIFF", compression="jpeg"),
    "pdf": encoded(Image.fromarray(noise()), "PDF"),
    "icns": encoded(Image.fromarray(noise(32, 32)), "ICNS"),
    "ico": encoded(Image.fromarray(noise(32, 32)), "ICO"),
    "ppm": encoded(Image.fromarray(noise()), "PPM"),
    "tga": encoded(Image.fromarray(noise()), "TGA"),
    "pcx": encoded(Image.fromarray(noise()), "PCX"),
    "dds": encoded(Image.fromarray(noise()), "DDS"),
    "eps": encoded(Image.fromarray(noise()), "EPS"),
    "jpeg 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100),
    "psd": b"8BPS\x00\x01" + bytes(6) + struct.pack(">HIIHH", 3, 4, 6, 8, 3) + bytes(100),
    "fits": FITS,
    "fits gzip": gzip.compress(FITS),
    "gzip": gzip.compress(png(noise())),
    "font": b"\x01fcp" + bytes(100),
    "truetype": b"\x00\x01\x00\x00\x00\x0c" + bytes(100),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "xml": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]><x>&y;</x>',
    "xbm": b"#define x_width 8\n#define x_height 8\nstatic char x_bits[] = {0};",
    "wmf": b"\xd7\xcd\xc6\x9a\x00\x00" + bytes(100),
    "avif": b"\x00\x00\x00\x20ftypavif" + bytes(100),
    "text": b"hello",
    "zeros": bytes(1000),
    "empty": b"",
    "half a magic": b"\x89PNG\r\n",
    "json": b'{"values": [1]}',
}


@pytest.mark.parametrize("name", FOREIGN)
def test_p16_other_formats_are_never_opened(name: str, zoo: RunningPlatform) -> None:
    refused(send(zoo, "free", FOREIGN[name]), 415, "UNSUPPORTED_TYPE")


@pytest.mark.parametrize(
    "size", [(50_000, 50_000), (2**31 - 1, 1), (1, 2**31 - 1), (2**31 - 1, 2**31 - 1), (10_000, 5_001)]
)
def test_p16_too_many_pixels_are_refused_by_the_head(size: tuple[int, int], zoo: RunningPlatform) -> None:
    refused(send(zoo, "free", crafted_png(*size)), 413, "TOO_LARGE")
    head = struct.pack("<IiiHHIIiiII", 40, *size, 1, 24, 0, 0, 0, 0, 0, 0)
    bitmap = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head
    refused(send(zoo, "free", bitmap), 413, "TOO_LARGE")


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (0, 0)])
def test_p16_a_picture_without_pixels_is_refused(size: tuple[int, int], zoo: RunningPlatform) -> None:
    for name in ("free", "first"):
        answer = send(zoo, name, crafted_png(*size))
        assert answer.status_code in {400, 415}, answer.text


def test_p16_truncated_and_broken_pictures_are_refused(zoo: RunningPlatform) -> None:
    picture = Image.fromarray(noise(64, 64))
    rng = np.random.default_rng(3)
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        whole = encoded(picture, kind)
        for length in (len(whole) // 10, len(whole) // 2, len(whole) * 9 // 10):
            answer = send(zoo, "free", whole[:length])
            assert answer.status_code in {400, 415}, (kind, length, answer.text)
        for _ in range(20):
            broken = bytearray(whole)
            for place in rng.integers(0, len(whole), 8):
                broken[place] = rng.integers(0, 256)
            answer = send(zoo, "free", bytes(broken))
            assert answer.status_code in {200, 400, 413, 415}, answer.text


def test_p16_several_pictures_in_one_file_are_the_first_one(zoo: RunningPlatform) -> None:
    """A camera's MPO is a JPEG with more behind it: only the JPEG is read."""
    one, other = (Image.fromarray(np.full((16, 16, 3), level, np.uint8)) for level in (50, 200))
    data = encoded(one, "MPO", save_all=True, append_images=[other])
    np.testing.assert_allclose(pixels_of(send(zoo, "first", data)), 50, atol=2)
    moving = encoded(one, "WEBP", save_all=True, append_images=[other], lossless=True)
    np.testing.assert_array_equal(pixels_of(send(zoo, "first", moving)), np.full((HEIGHT, WIDTH, 3), 50))


def test_a_model_that_takes_no_picture_says_so(zoo: RunningPlatform) -> None:
    refused(send(zoo, "iris.onnx", png(noise())), 400, "BAD_REQUEST")
    refused(send(zoo, "none", png(noise())), 404, "MODEL_NOT_FOUND")
    refused(send(zoo, "first", png(noise()), "image/gif"), 415, "UNSUPPORTED_TYPE")


def test_nothing_was_broken_by_all_this(zoo: RunningPlatform) -> None:
    assert not [record for record in zoo.records() if record["level"] == "ERROR"]
    records = zoo.records("modelhost-1")
    assert not [record for record in records if record["level"] == "ERROR" or record["event"] == "runner died"]
