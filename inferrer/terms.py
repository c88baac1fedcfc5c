"""What a prediction request says in its header fields. Pure; the lane and Flask read them alike."""

from mlbuffet.channel import Codec
from mlbuffet.errors import BadRequestError, UnsupportedTypeError

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
_MAX_TIMEOUT_MS = 3_600_000

# curl -d says x-www-form-urlencoded unless told otherwise; what it sends is JSON all the same.
_JSON_TYPES = frozenset({"", "application/json", "application/x-www-form-urlencoded", "text/json"})
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
