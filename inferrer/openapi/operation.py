"""What a route takes and answers, in OpenAPI's words, and which errors it can answer.

A route's docstring says what it does; this says the rest. Errors are named by their classes, so a new one in
mlbuffet/errors.py that no route names fails a test.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mlbuffet import errors
from mlbuffet.errors import MLBuffetError, all_errors

Json = dict[str, Any]
Errors = frozenset[type[MLBuffetError]]

JSON = "application/json"


class Protocol(Enum):
    """Whose form an error has."""

    V1 = "Error"
    V2 = "V2Error"


# Answered by the HTTP server, whatever is asked.
ALWAYS: Errors = frozenset(
    {
        errors.BadRequestError,
        errors.UnauthenticatedError,
        errors.ForbiddenError,
        errors.OriginRefusedError,
        errors.RequestTimeoutError,
        errors.URITooLongError,
        errors.MisdirectedError,
        errors.TooManyRequestsError,
        errors.HeadersTooLargeError,
        errors.TooLargeError,
        errors.IncompleteBodyError,
        MLBuffetError,
        errors.BusyError,
    }
)
# Answered where there is no such method; and what no server sends.
NOWHERE: Errors = frozenset(
    {
        errors.MethodNotAllowedError,
        errors.UnknownMethodError,
        errors.ClientGoneError,
        errors.ConnectionFailedError,
    }
)
NAME: Errors = frozenset(
    {
        errors.InvalidNameError,
        errors.UnsupportedTypeError,
        errors.NotFoundError,  # for one with a slash, encoded or not
        errors.ModelNotFoundError,
        errors.VersionNotFoundError,
    }
)
FIELDS: Errors = frozenset(
    {errors.InvalidJSONError, errors.InvalidNumberError, errors.UnprocessableError, errors.UnsupportedTypeError}
)
MODELHOST: Errors = frozenset(
    {errors.UnavailableError, errors.ReplicaLostError, errors.DeadlineExceededError, errors.StorageUnavailableError}
)
LOADING: Errors = MODELHOST | {
    errors.ModelFailedError,
    errors.ModelQuarantinedError,
    errors.ModelCorruptError,
    errors.NotLoadedError,
    errors.ModelCrashedError,
    errors.InvalidModelError,
    errors.ResourceLimitError,
}
STORED: Errors = frozenset({errors.StorageUnavailableError, errors.StorageFullError})
CHANGE: Errors = STORED | {errors.ModelBusyError}
PREDICTION: Errors = (
    NAME
    | FIELDS
    | LOADING
    | {
        errors.InvalidShapeError,
        errors.InvalidDatatypeError,
        errors.InvalidValueError,
        errors.UnknownInputError,
        errors.MissingInputError,
        errors.InvalidOutputError,
        errors.ModelOutputError,
        errors.QueueFullError,
    }
)
UPLOAD: Errors = (
    NAME
    | CHANGE
    | LOADING
    | {
        errors.UnprocessableError,
        errors.InvalidJSONError,
        errors.InvalidNumberError,
        errors.BadMultipartError,
        errors.DigestMismatchError,
        errors.NameConflictError,
        errors.IdempotencyConflictError,
        errors.PreconditionFailedError,
        errors.ModelUnsafeError,
        errors.ExternalDataError,
        errors.ModelTooComplexError,
        errors.QueueFullError,
    }
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One route and method beside its docstring; `answers` are the successes by status, as response objects."""

    tag: str
    answers: Json
    errors: Errors = frozenset()
    parameters: tuple[str, ...] = ()  # names in components/parameters, beside those of the path
    body: Json | None = None
    protocol: Protocol = Protocol.V1
    named: str = "Ref"  # the component of the path's `name`

    def responses(self) -> dict[str, Any]:
        """Every response, the errors grouped by status."""
        by_status: defaultdict[int, list[type[MLBuffetError]]] = defaultdict(list)
        for error in all_errors():
            if error in self.errors | ALWAYS:
                by_status[error.status].append(error)
        refusals = {str(status): _refusal(kinds, self.protocol) for status, kinds in sorted(by_status.items())}
        return {**self.answers, **refusals}


def _refusal(kinds: Iterable[type[MLBuffetError]], protocol: Protocol) -> dict[str, Any]:
    """One status: what its codes mean, and the codes themselves where the protocol says them."""
    kinds = list(kinds)
    codes = [kind.code for kind in kinds]
    lines = [f"- `{kind.code}`: {(kind.__doc__ or '').splitlines()[0]}" for kind in kinds]
    headers: dict[str, Any] = {"X-Request-Id": _header("RequestId")}
    if any(kind.retry_after_s is not None for kind in kinds):
        headers["Retry-After"] = _header("RetryAfter")
    schema: dict[str, Any] = {"$ref": f"#/components/schemas/{protocol.value}"}
    if protocol is Protocol.V1:
        told = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
        schema = {"allOf": [schema, told]}
    else:
        headers["X-Error-Code"] = {"required": True, "schema": {"enum": codes}}
    return {"description": "\n".join(lines), "headers": headers, "content": {JSON: {"schema": schema}}}


def _header(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/headers/{name}"}


def answered(description: str, schema: Json, *headers: str, media_type: str = JSON, example: object = None) -> Json:
    """A response with one content; `headers` are names and components, as in `X-Model-Version=ModelVersion`."""
    named = dict(header.split("=") for header in ("X-Request-Id=RequestId", *headers))
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {
        "description": description,
        "headers": {name: _header(component) for name, component in named.items()},
        "content": {media_type: content},
    }


def reference(name: str) -> dict[str, str]:
    """A schema in the components."""
    return {"$ref": f"#/components/schemas/{name}"}


def json_body(schema: Json, example: object, *, required: bool = True) -> Json:
    """A request body of JSON."""
    return {"required": required, "content": {JSON: {"schema": schema, "example": example}}}


def strict(properties: Json, required: Iterable[str] = (), **more: object) -> dict[str, Any]:
    """An object with these fields and no other."""
    return open_object(properties, required, **more) | {"additionalProperties": False}


def open_object(properties: Json, required: Iterable[str] = (), **more: object) -> dict[str, Any]:
    """An object with these fields, and perhaps others."""
    wanted = {"required": list(required)} if required else {}
    return {"type": "object", "properties": dict(properties), **wanted, **more}
