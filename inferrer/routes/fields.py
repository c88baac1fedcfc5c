"""Reads what a request carries beside a model's input: JSON objects, header fields, query parameters."""

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Any

from flask import Request

from inferrer.keyring import TRAINER
from inferrer.terms import check_encoding
from mlbuffet.errors import BadRequestError, ForbiddenError, InvalidJSONError, TooLargeError, UnprocessableError
from mlbuffet.manifest import ImageSettings
from mlbuffet.strict_json import count_strings, parse

_JSON_BYTES = 1 << 20
_DEPTH = 100
_HEX_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})", re.IGNORECASE)
_CONTENT_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/=]{44}):")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def json_object(request: Request, *, default: bytes = b"") -> dict[str, Any]:
    """The body as a JSON object of at most 1 MiB; `default` stands for an empty one.

    Raises:
        UnsupportedTypeError: it is compressed.
        InvalidJSONError, TooLargeError: not JSON, or too long.
        UnprocessableError: JSON, but no object.
    """
    check_encoding(request.headers.get("Content-Encoding", ""))
    body = request.stream.read(_JSON_BYTES + 1)
    if len(body) > _JSON_BYTES:
        msg = f"this body has at most {_JSON_BYTES} bytes"
        raise TooLargeError(msg)
    data = parse_json(body or default)
    if not isinstance(data, dict):
        msg = f"the body is a JSON object; received {type(data).__name__}"
        raise UnprocessableError(msg)
    return data


def parse_json(text: bytes) -> Any:  # noqa: ANN401 - any JSON
    """Strict JSON, nested no deeper than can be written again.

    Raises:
        InvalidJSONError: it is not.
    """
    data = parse(text)
    level, strings = [data], 0
    for _ in range(_DEPTH):
        if not level:
            break
        strings += sum(len(item) if isinstance(item, dict) else isinstance(item, str) for item in level)
        level = [child for item in level for child in _children(item)]
    if level:
        msg = f"the body is nested deeper than {_DEPTH} levels"
        raise InvalidJSONError(msg)
    if strings != count_strings(text):
        msg = "in one object each name stands once; received one that stands there again"
        raise InvalidJSONError(msg)
    return data


def _children(item: object) -> Iterable[object]:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list) else ()


def image_settings(text: str | None) -> ImageSettings | None:
    """Image settings from a form field; None without one.

    Raises:
        InvalidJSONError, UnprocessableError: not JSON, or not image settings.
    """
    return None if text is None else ImageSettings.from_json(parse_json(text.encode()))


def yes_no(name: str, text: str) -> bool:
    """A form field that is `true` or `false`.

    Raises:
        UnprocessableError: it is something else.
    """
    if text not in {"true", "false"}:
        msg = f"{name!r} is true or false; received {text[:80]!a}"
        raise UnprocessableError(msg)
    return text == "true"


def run_of(request: Request, text: str | None) -> dict[str, Any] | None:
    """The training run that made what is uploaded; only the trainer may say which.

    Raises:
        ForbiddenError: somebody else does.
        InvalidJSONError, UnprocessableError: not JSON, or no object.
    """
    if text is None:
        return None
    if request.environ["mlbuffet.grant"].who != TRAINER:
        msg = "the form field 'run' is the trainer's, which alone knows which run made a model"
        raise ForbiddenError(msg)
    run: object = parse_json(text.encode())
    if not isinstance(run, dict):
        msg = f"'run' is a JSON object; received {type(run).__name__}"
        raise UnprocessableError(msg)
    return run


def announced_digest(request: Request) -> str | None:
    """The SHA-256 that the client announces, as `sha256:` and hex digits; None without one.

    Raises:
        BadRequestError: a header that does not read so.
    """
    text = request.headers.get("X-Content-SHA256")
    if text is not None:
        found = _HEX_DIGEST.fullmatch(text.strip())
        if found is None:
            msg = f"X-Content-SHA256 has 64 hexadecimal digits; received {text[:80]!a}"
            raise BadRequestError(msg)
        return f"sha256:{found[1].lower()}"
    text = request.headers.get("Content-Digest")
    if text is None:
        return None
    found = _CONTENT_DIGEST.search(text)
    try:
        raw = base64.b64decode(found[1], validate=True) if found is not None else b""
    except binascii.Error:
        raw = b""
    if len(raw) != 32:  # noqa: PLR2004 - SHA-256
        msg = f"Content-Digest is read as sha-256=:<base64>: (RFC 9530); received {text[:80]!a}"
        raise BadRequestError(msg)
    return f"sha256:{raw.hex()}"


def idempotency_key(request: Request) -> str | None:
    """The client's Idempotency-Key; None without one.

    Raises:
        BadRequestError: not 1 to 255 visible ASCII characters.
    """
    text = request.headers.get("Idempotency-Key")
    if text is not None and not _KEY.fullmatch(text):
        msg = "Idempotency-Key has 1 to 255 visible ASCII characters"
        raise BadRequestError(msg)
    return text


def if_match(request: Request) -> str | None:
    """The digest in If-Match, without quotes; `*` stands for any; None without the header."""
    text = request.headers.get("If-Match")
    return None if text is None else text.strip().removeprefix("W/").strip('"')


def limit_of(request: Request, ceiling: int) -> int:
    """How many entries a page may have.

    Raises:
        BadRequestError: no number from 1 to the ceiling.
    """
    text = request.args.get("limit")
    if text is None:
        return ceiling
    if text.isascii() and text.isdecimal() and len(text) < 8 and 1 <= int(text) <= ceiling:  # noqa: PLR2004
        return int(text)
    msg = f"limit is a number from 1 to {ceiling}; received {text[:80]!a}"
    raise BadRequestError(msg)
