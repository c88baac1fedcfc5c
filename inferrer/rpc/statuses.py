"""What an error is called in gRPC, and what is sent along with it. The one mapping of errors to gRPC.

The statuses are those that gRPC's own guide gives for these cases, as far as HTTP's tell them apart:
https://grpc.github.io/grpc/core/md_doc_statuscodes.html
"""

from collections.abc import Iterable, Mapping
from typing import Any

from grpc import StatusCode

from mlbuffet.chassis.ids import request_id_of
from mlbuffet.errors import MLBuffetError

Metadata = tuple[tuple[str, str], ...]

REQUEST_ID = "x-request-id"
_STATUSES: Mapping[int, StatusCode] = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    405: StatusCode.UNIMPLEMENTED,
    408: StatusCode.DEADLINE_EXCEEDED,
    409: StatusCode.FAILED_PRECONDITION,
    412: StatusCode.FAILED_PRECONDITION,
    413: StatusCode.RESOURCE_EXHAUSTED,
    414: StatusCode.INVALID_ARGUMENT,
    415: StatusCode.INVALID_ARGUMENT,
    421: StatusCode.INVALID_ARGUMENT,
    422: StatusCode.INVALID_ARGUMENT,
    429: StatusCode.RESOURCE_EXHAUSTED,
    431: StatusCode.RESOURCE_EXHAUSTED,
    500: StatusCode.INTERNAL,
    501: StatusCode.UNIMPLEMENTED,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
    507: StatusCode.RESOURCE_EXHAUSTED,
}


def status_of(error: MLBuffetError) -> StatusCode:
    """The status that a call ends with; one that can be tried again after a conflict says so."""
    if error.status == 409 and error.retryable:  # noqa: PLR2004 - as in the table
        return StatusCode.ABORTED
    return _STATUSES[error.status]


def trailers_of(error: MLBuffetError, request_id: str) -> Metadata:
    """The metadata behind a call that failed: what HTTP has in header fields."""
    trailers: Metadata = ((REQUEST_ID, request_id), ("x-error-code", error.code))
    return trailers if error.retry_after_s is None else (*trailers, ("retry-after", str(error.retry_after_s)))


async def abort(context: Any, error: MLBuffetError, request_id: str) -> None:  # noqa: ANN401 - grpc has no types
    """End a call with an error; it raises what ends the handler."""
    await context.abort(status_of(error), error.message, trailers_of(error, request_id))


def request_id_in(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """A call's id, by its metadata; values of keys that end in -bin are bytes, all others text."""
    given = next((value for key, value in metadata if key == REQUEST_ID), "")
    return request_id_of(given.encode() if isinstance(given, str) else given)
