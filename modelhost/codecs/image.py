"""Images to a model's input: only formats on the list are ever opened, and by content, not by name.

EXIF orientation is applied, colours follow the model's channels, size its static size, axis order its shape; then
`(pixel * scale - mean) / std` per channel as the manifest says. Labels, where there are any, are added to the answer.
"""

import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import orjson
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from mlbuffet.errors import BadRequestError, InvalidImageError, InvalidValueError, TooLargeError, UnsupportedTypeError
from mlbuffet.manifest import ImageSettings, Signature, TensorSpec
from modelhost.codecs.buffet import Wanted, encode, wanted_outputs
from modelhost.codecs.request import Answer, Array, Decoded, Served
from modelhost.runtimes.onnx import DTYPES

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_JPEG = b"\xff\xd8\xff"
_MAX_PIXELS = 50_000_000
_MODES = {1: "L", 3: "RGB"}
_RANK = 4
_CLASSES_RANK = 2


def decode(body: memoryview, split: int, served: Served) -> Decoded:
    """Read an image request: options as JSON, then the image file.

    Raises:
        BadRequestError: the model takes no image.
        UnsupportedTypeError, InvalidImageError, TooLargeError: this is no image that is taken.
    """
    options, data = orjson.loads(body[:split]), body[split:]
    settings = ImageSettings.from_json(options["image"])
    spec, channels_first = _image_input(served.signature)
    channels = spec.shape[1 if channels_first else 3]
    picture = _open(data).convert(_MODES[channels or 3])
    height, width = spec.shape[2:4] if channels_first else spec.shape[1:3]
    size = (width or picture.width, height or picture.height)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    try:
        array = _normalise(np.asarray(picture, dtype=np.float32).reshape(size[1], size[0], -1), settings)
        array = _as_datatype(array.transpose(2, 0, 1) if channels_first else array, DTYPES[spec.datatype])
    except FloatingPointError:
        msg = f"the model's image settings take pixels beyond the range of {spec.datatype}"
        raise InvalidValueError(msg) from None
    wanted = wanted_outputs(options.get("outputs"), served.signature)
    return Decoded({spec.name: array[np.newaxis]}, wanted.names, partial(_encode, wanted, settings.labels))


def _encode(wanted: Wanted, labels: Sequence[str], outputs: Sequence[Any]) -> Answer:
    """The answer, with the names of the classes where there are any."""
    return encode(wanted, outputs, labels_of(outputs[0], labels))


def _image_input(signature: Signature) -> tuple[TensorSpec, bool]:
    """The input that takes the image, and whether its channels come first.

    Raises:
        BadRequestError: there is none, or it is not the only input.
    """
    if len(signature.inputs) == 1:
        spec = signature.inputs[0]
        if len(spec.shape) == _RANK and DTYPES.get(spec.datatype, np.dtype(object)).kind in "fui":
            if spec.shape[1] in _MODES:
                return spec, True
            if spec.shape[3] in _MODES:
                return spec, False
    msg = "the model takes no image: that needs one input of shape [N, C, H, W] or [N, H, W, C] with 1 or 3 channels"
    raise BadRequestError(msg)


def _open(data: memoryview) -> Image.Image:
    """Decode an image, upright.

    Raises:
        UnsupportedTypeError: not one of the formats.
        InvalidImageError: of a format, but broken.
        TooLargeError: more pixels than are decoded.
    """
    file = io.BytesIO(data)
    try:
        # By its own class, or Pillow would look in a JPEG for the further pictures of an MPO.
        picture = JpegImageFile(file) if data[:3] == _JPEG else Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        msg = f"images are {', '.join(FORMATS)}, by content; received something else"
        raise UnsupportedTypeError(msg) from None
    except Image.DecompressionBombError:
        raise _too_large() from None
    except Exception as error:  # noqa: BLE001 - decoders fail in many ways
        raise _broken(error) from None
    if picture.width * picture.height > _MAX_PIXELS:
        raise _too_large()
    try:
        picture.load()
        return _eight_bits(ImageOps.exif_transpose(picture))
    except Exception as error:  # noqa: BLE001 - and again when they decode
        raise _broken(error) from None


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A 16-bit grey image scaled to 8 bits, where a plain conversion would clip it."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))


def _normalise(pixels: Array, settings: ImageSettings) -> Array:
    """Scale, centre and spread [H, W, C] pixels.

    Raises:
        BadRequestError: mean or std have another number of channels than the model.
    """
    array: Array = pixels * np.float32(settings.scale)
    for name, values in (("mean", settings.mean), ("std", settings.std)):
        if len(values) not in {0, 1, pixels.shape[2]}:
            msg = f"the image setting {name} has {len(values)} channels, the model {pixels.shape[2]}"
            raise BadRequestError(msg)
    if settings.mean:
        array = array - np.array(settings.mean, np.float32)
    if settings.std:
        array = array / np.array(settings.std, np.float32)
    return array


def _as_datatype(array: Array, target: np.dtype[Any]) -> Array:
    """Pixels in the input's datatype; for whole numbers rounded, and cut off at the ends of its range."""
    if target.kind == "f":
        return np.ascontiguousarray(array, dtype=target)
    limits = np.iinfo(target)
    pixels = np.rint(array)
    # A float32 holds the limits of long integers only rounded, and beyond the range.
    whole = np.where(pixels < limits.max, np.maximum(pixels, limits.min), 0).astype(target)
    return np.ascontiguousarray(np.where(pixels < limits.max, whole, limits.max).astype(target))


def labels_of(first: Any, labels: Sequence[str]) -> dict[str, list[str]]:  # noqa: ANN401 - whatever a model gives
    """Names of the classes in the first output: class numbers, or scores whose largest counts."""
    if not labels or not isinstance(first, np.ndarray):
        return {}
    if first.dtype.kind in "iu":
        numbers = first.ravel()
    elif first.dtype.kind == "f" and first.ndim == _CLASSES_RANK:
        numbers = first.argmax(axis=1)
    else:
        return {}
    return {"labels": [labels[int(number)] if 0 <= number < len(labels) else str(number) for number in numbers]}


def _too_large() -> TooLargeError:
    return TooLargeError(f"an image has at most {_MAX_PIXELS} pixels")


def _broken(error: Exception) -> InvalidImageError:
    return InvalidImageError(f"the image does not decode ({type(error).__name__})")
