"""Every failure a client can see, drawn as a tree, with its status and its stable code.

This is the only list of codes: docs/api.md's table is made from it, and an error that crossed the data channel is
rebuilt from it. A message says what was received and what was expected; it never holds a path, a host or a secret.

    MLBuffetError 500 INTERNAL
    ├── BadRequestError 400 ……………… what was sent cannot be understood
    ├── UnauthenticatedError 401, ForbiddenError 403
    ├── NotFoundError 404
    ├── ConflictError 409 ………………… the request is right, the present state forbids it
    ├── UnprocessableError 422 ……… a field is missing or mistyped, a model cannot be loaded
    ├── TooLargeError 413, UnsupportedTypeError 415, TooManyRequestsError 429, …
    └── UnavailableError 503 ……… try again later
"""

from collections.abc import Iterator
from typing import ClassVar


class MLBuffetError(Exception):
    """Something failed inside the server; its log has the details."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False
    retry_after_s: int | None = None
    request_id: str | None = None  # where a client was told one

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


# 400 ---------------------------------------------------------------------------------------------------------------


class BadRequestError(MLBuffetError):
    """The request cannot be understood."""

    status = 400
    code = "BAD_REQUEST"


class InvalidNameError(BadRequestError):
    """A model name outside the allow-list."""

    code = "INVALID_NAME"


class InvalidJSONError(BadRequestError):
    """The body is not strict JSON: NaN, infinities and trailing text are not JSON either."""

    code = "INVALID_JSON"


class InvalidNumberError(InvalidJSONError):
    """A number that JSON does not have, or a whole number beyond 64 bits."""

    code = "INVALID_NUMBER"


class InvalidShapeError(BadRequestError):
    """The values do not have the shape that the model's input has."""

    code = "INVALID_SHAPE"


class InvalidDatatypeError(BadRequestError):
    """A value cannot be converted to the input's datatype without loss."""

    code = "INVALID_DATATYPE"


class UnknownInputError(BadRequestError):
    """An input was named that the model does not have."""

    code = "UNKNOWN_INPUT"


class MissingInputError(BadRequestError):
    """An input of the model was not given."""

    code = "MISSING_INPUT"


class InvalidOutputError(BadRequestError):
    """An output was asked for that the model does not have, or twice."""

    code = "INVALID_OUTPUT"


class InvalidImageError(BadRequestError):
    """The bytes of an allowed image format do not decode."""

    code = "INVALID_IMAGE"


class InvalidValueError(BadRequestError):
    """The model itself refused the values while running."""

    code = "INVALID_VALUE"


class BadMultipartError(BadRequestError):
    """A multipart body that does not parse, or not with the fields that the route takes."""

    code = "BAD_MULTIPART"


class IncompleteBodyError(BadRequestError):
    """The client stopped sending before the body was whole."""

    code = "INCOMPLETE_BODY"


class ClientGoneError(BadRequestError):
    """The client closed its connection before the answer was there; nobody reads this one."""

    code = "CLIENT_GONE"


class DigestMismatchError(BadRequestError):
    """The bytes received do not have the digest that was announced."""

    code = "DIGEST_MISMATCH"


# 401 to 408 --------------------------------------------------------------------------------------------------------


class UnauthenticatedError(MLBuffetError):
    """No API key was given, or one that does not count: the answer does not say which."""

    status = 401
    code = "UNAUTHENTICATED"


class ForbiddenError(MLBuffetError):
    """The API key does not have the scope that this takes."""

    status = 403
    code = "FORBIDDEN"


class OriginRefusedError(ForbiddenError):
    """A web page of another origin asks; without keys only pages of this server may."""

    code = "ORIGIN_REFUSED"


class NotFoundError(MLBuffetError):
    """There is nothing at this address."""

    status = 404
    code = "NOT_FOUND"


class ModelNotFoundError(NotFoundError):
    """No model has this name."""

    code = "MODEL_NOT_FOUND"


class VersionNotFoundError(NotFoundError):
    """The model has no such version."""

    code = "VERSION_NOT_FOUND"


class RunNotFoundError(NotFoundError):
    """No training run has this id."""

    code = "RUN_NOT_FOUND"


class MethodNotAllowedError(MLBuffetError):
    """The address exists, but not for this method."""

    status = 405
    code = "METHOD_NOT_ALLOWED"


class RequestTimeoutError(MLBuffetError):
    """The client was too slow to send its request."""

    status = 408
    code = "REQUEST_TIMEOUT"
    retryable = True


# 409 to 415 --------------------------------------------------------------------------------------------------------


class ConflictError(MLBuffetError):
    """The present state forbids what was asked."""

    status = 409
    code = "CONFLICT"


class NameConflictError(ConflictError):
    """The name differs from an existing one only by case."""

    code = "NAME_CONFLICT"


class DefaultVersionError(ConflictError):
    """The default version cannot be deleted while others exist."""

    code = "DEFAULT_VERSION"


class ModelBusyError(ConflictError):
    """Another change of the same model is under way."""

    code = "MODEL_BUSY"
    retryable = True
    retry_after_s = 1


class IdempotencyConflictError(ConflictError):
    """The Idempotency-Key was used before, for other bytes."""

    code = "IDEMPOTENCY_CONFLICT"


class RunActiveError(ConflictError):
    """The training run has not ended yet."""

    code = "RUN_ACTIVE"


class RunEndedError(ConflictError):
    """The training run is past what was asked for: it has ended, or its model is being registered."""

    code = "RUN_ENDED"


class PreconditionFailedError(MLBuffetError):
    """If-Match named another version than the present one."""

    status = 412
    code = "PRECONDITION_FAILED"


class TooLargeError(MLBuffetError):
    """The body is larger than the limit."""

    status = 413
    code = "TOO_LARGE"


class URITooLongError(MLBuffetError):
    """The request line is longer than the limit."""

    status = 414
    code = "URI_TOO_LONG"


class UnsupportedTypeError(MLBuffetError):
    """This kind of content is not taken here."""

    status = 415
    code = "UNSUPPORTED_TYPE"


class MisdirectedError(MLBuffetError):
    """The Host field names another server; without keys only the names of this one are taken."""

    status = 421
    code = "MISDIRECTED"


# 422 to 431 --------------------------------------------------------------------------------------------------------


class UnprocessableError(MLBuffetError):
    """A field is missing or has the wrong type."""

    status = 422
    code = "INVALID_FIELD"


class InvalidModelError(UnprocessableError):
    """The file is not a model that can be loaded."""

    code = "INVALID_MODEL"


class ModelUnsafeError(InvalidModelError):
    """The model asks for what no model may: an operator of an unknown domain, a library of its own."""

    code = "MODEL_UNSAFE"


class ExternalDataError(InvalidModelError):
    """The model keeps data in other files; a model is one file."""

    code = "EXTERNAL_DATA_FORBIDDEN"


class ModelTooComplexError(InvalidModelError):
    """The model has more nodes, inputs or levels than are taken."""

    code = "MODEL_TOO_COMPLEX"


class MissingScriptError(UnprocessableError):
    """A training request comes without the file `script`."""

    code = "MISSING_SCRIPT"


class MissingRequirementsError(UnprocessableError):
    """A training request comes without the file `requirements`."""

    code = "MISSING_REQUIREMENTS"


class MissingDatasetError(UnprocessableError):
    """A training request comes without a file `dataset`."""

    code = "MISSING_DATASET"


class InvalidRequirementsError(UnprocessableError):
    """A line of the requirements is no requirement, or one that is not taken: an option, an address."""

    code = "INVALID_REQUIREMENTS"


class TooManyRequestsError(MLBuffetError):
    """The API key is over its rate, or too many wrong ones came from this address."""

    status = 429
    code = "RATE_LIMITED"
    retryable = True
    retry_after_s = 1

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class HeadersTooLargeError(MLBuffetError):
    """The request's header fields are larger or more than the limit."""

    status = 431
    code = "HEADERS_TOO_LARGE"


# 500 and up --------------------------------------------------------------------------------------------------------


class ModelCrashedError(MLBuffetError):
    """This request killed the process that ran the model."""

    code = "MODEL_CRASHED"


class ModelOutputError(MLBuffetError):
    """The model's result has no form in the protocol."""

    code = "MODEL_OUTPUT_INVALID"


class UnknownMethodError(MLBuffetError):
    """HTTP has no such method."""

    status = 501
    code = "UNKNOWN_METHOD"


class UnavailableError(MLBuffetError):
    """Nothing is ready to serve this now."""

    status = 503
    code = "UNAVAILABLE"
    retryable = True
    retry_after_s = 1


class ReplicaLostError(UnavailableError):
    """The modelhost went away before it answered."""

    code = "MODELHOST_LOST"


class ConnectionFailedError(UnavailableError):
    """No MLBuffet server answered at the client's address. Raised by the client, never sent by a server."""

    code = "CONNECTION_FAILED"


class NotLoadedError(UnavailableError):
    """A modelhost was asked for a version that it does not have; said before anything ran."""

    code = "NOT_LOADED"


class QueueFullError(UnavailableError):
    """The model's queue is full."""

    code = "QUEUE_FULL"


class BusyError(UnavailableError):
    """The server handles as many such requests as it may."""

    code = "BUSY"


class EngineUnavailableError(UnavailableError):
    """No engine that could run a training script can be reached."""

    code = "ENGINE_UNAVAILABLE"
    retry_after_s = 10


class TrainerUnavailableError(UnavailableError):
    """There is no trainer, or it cannot be reached now."""

    code = "TRAINER_UNAVAILABLE"
    retry_after_s = 5


class ModelCorruptError(UnavailableError):
    """The stored file no longer has its digest; it is never served."""

    code = "MODEL_CORRUPT"
    retry_after_s = 60


class ModelFailedError(UnavailableError):
    """The modelhost failed to run the version; it is out of service until an operator or an upload changes it."""

    code = "MODEL_FAILED"
    retry_after_s = 60


class ModelQuarantinedError(UnavailableError):
    """Loading the version ended its process again and again; out of service until an operator or an upload lifts it."""

    code = "MODEL_QUARANTINED"
    retry_after_s = 60


class ModelUnloadedError(UnavailableError):
    """An operator unloaded the version; it is out of service until it is loaded again."""

    code = "MODEL_UNLOADED"
    retry_after_s = 60


class StorageUnavailableError(UnavailableError):
    """The model repository cannot be written now."""

    code = "STORAGE_UNAVAILABLE"
    retry_after_s = 5


class DeadlineExceededError(MLBuffetError):
    """The answer was not there in time."""

    status = 504
    code = "DEADLINE_EXCEEDED"
    retryable = True


class StorageFullError(MLBuffetError):
    """The model repository's volume is full."""

    status = 507
    code = "STORAGE_FULL"
    retryable = True


class ResourceLimitError(MLBuffetError):
    """The request needs more memory than a model may take."""

    status = 507
    code = "RESOURCE_LIMIT"


def all_errors(root: type[MLBuffetError] = MLBuffetError) -> Iterator[type[MLBuffetError]]:
    """Every error class, parents before children."""
    yield root
    for child in root.__subclasses__():
        yield from all_errors(child)


_BY_CODE = {error.code: error for error in all_errors()}


def from_code(code: str, message: str) -> MLBuffetError:
    """Rebuild an error that another process reported; a code unknown here is an internal failure."""
    return _BY_CODE.get(code, MLBuffetError)(message)
