"""Bodies: a prediction's read whole, within bounds, inflated where it is compressed; long answers compressed."""

import io
from typing import Any, TypeVar

from flask import Request, Response

from mlbuffet.chassis.compression import Inflated, coding_headers, compress, read_coding, wanted_coding
from mlbuffet.chassis.request import PREDICT_BYTES
from mlbuffet.errors import TooLargeError

B = TypeVar("B", bytes, bytearray)

_TEXT = ("application/json", "text/")  # tensors and models hardly become smaller


def inflated(request: Request) -> Any:  # noqa: ANN401 - a readable binary stream
    """A request's body as it was before it was compressed, if it was.

    Raises:
        UnsupportedTypeError: the Content-Encoding is not known here; reading may raise what `Inflated` does.
    """
    coding = read_coding(request.headers.get("Content-Encoding", ""))
    if not coding:
        return request.stream
    return io.BufferedReader(Inflated(request.stream, coding, PREDICT_BYTES), 1 << 16)


def read_whole(stream: Any) -> bytes:  # noqa: ANN401 - any readable binary stream
    """A prediction's body.

    Raises:
        TooLargeError: it is larger than a prediction's body may be.
    """
    body: bytes = stream.read(PREDICT_BYTES + 1)
    return bounded(body)


def bounded(body: B) -> B:
    """Return a body that is not too large.

    Raises:
        TooLargeError: it is.
    """
    if len(body) > PREDICT_BYTES:
        msg = f"the body has at most {PREDICT_BYTES} bytes"
        raise TooLargeError(msg)
    return body


def compressed(response: Response, accept_encoding: str, least_bytes: int) -> Response:
    """An answer in the coding that its client asks for, if it is text of at least so many bytes; 0 stands for never."""
    if not least_bytes or response.is_streamed or not str(response.content_type).startswith(_TEXT):
        return response
    body = response.get_data()
    if len(body) >= least_bytes:
        coding = wanted_coding(accept_encoding)
        response.headers.extend(coding_headers(coding))
        if coding:
            response.set_data(compress(body, coding))
    return response
