"""What a prediction request says in its header fields. Pure; the lane and Flask read them alike."""

from mlbuffet.channel import Codec
from mlbuffet.errors import BadRequestError, UnsupportedTypeError

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
HEADER_LENGTH_HEADER = "Inference-Header-Content-Length"
_MAX_TIMEOUT_MS = 3_600_000

# curl -d says x-www-form-urlencoded unless told otherwise; what it sends is JSON all the same.
_JSON_TYPES = frozenset({"", "application/json", "application/x-www-form-urlencoded", "text/json"})
_TENSOR_TYPES = _JSON_TYPES | {"application/octet-stream"}
_IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/webp", "image/bmp", "image/x-ms-bmp"})


def codec_of(content_type: str) -> Codec:
    """How a body of this type is decoded.

    Raises:
        UnsupportedTypeError: it is not.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in _JSON_TYPES:
        return Codec.BUFFET
    if media_type in _IMAGE_TYPES:
        return Codec.IMAGE
    msg = (
        f"a prediction takes application/json, multipart/form-data, or an image (png, jpeg, webp, bmp); "
        f"received {media_type[:80]!a}"
    )
    raise UnsupportedTypeError(msg)


def check_json(content_type: str) -> None:
    """Refuse what is not JSON.

    Raises:
        UnsupportedTypeError: it is of another type.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in _JSON_TYPES:
        msg = f"this takes application/json; received {media_type[:80]!a}"
        raise UnsupportedTypeError(msg)


def check_tensor_type(content_type: str) -> None:
    """Refuse a V2 body that says it is anything but JSON or bytes.

    Raises:
        UnsupportedTypeError: it does.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in _TENSOR_TYPES:
        msg = f"a V2 inference takes application/json or application/octet-stream; received {media_type[:80]!a}"
        raise UnsupportedTypeError(msg)


def tensor_codec(header: str, body_bytes: int) -> tuple[Codec, int]:
    """How a V2 body with the binary tensor extension's header is decoded, and how much of it is JSON.

    `header` is the value of Inference-Header-Content-Length; 0 says that the whole body is the one input's bytes.

    Raises:
        BadRequestError: the header is no number, or more than the body has.
    """
    if not (header.isascii() and header.isdecimal() and len(header) < 10):  # noqa: PLR2004
        msg = f"{HEADER_LENGTH_HEADER} is a number of bytes; received {header[:80]!a}"
        raise BadRequestError(msg)
    length = int(header)
    if length > body_bytes:
        msg = f"{HEADER_LENGTH_HEADER} is at most the {body_bytes} bytes of the body; received {length}"
        raise BadRequestError(msg)
    if length == 0:
        return Codec.OIP_RAW, 0
    return Codec.OIP, length if length < body_bytes else 0


def timeout_of(header: str, default_s: float) -> float:
    """Seconds that a request may take.

    Raises:
        BadRequestError: the header is no number of milliseconds from 1 to an hour.
    """
    if not header:
        return default_s
    if header.isascii() and header.isdecimal() and len(header) < 8 and 1 <= int(header) <= _MAX_TIMEOUT_MS:  # noqa: PLR2004
        return int(header) / 1000
    msg = f"{TIMEOUT_HEADER} is a number from 1 to {_MAX_TIMEOUT_MS}; received {header[:80]!a}"
    raise BadRequestError(msg)


def check_encoding(header: str) -> None:
    """Refuse a body that is compressed.

    Raises:
        UnsupportedTypeError: Content-Encoding names anything but identity.
    """
    if header and header.strip().lower() != "identity":
        msg = f"a body is taken as it is; received the Content-Encoding {header[:80]!a}"
        raise UnsupportedTypeError(msg)
