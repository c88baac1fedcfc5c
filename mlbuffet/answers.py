"""What the server tells the client: its answers' fields, and its errors as ours.

A newer server's further fields are there too.
"""

from typing import Any, NotRequired, TypedDict

import requests

from mlbuffet.errors import ConnectionFailedError, MLBuffetError, all_errors, from_code


class Tensor(TypedDict):
    """One input or output; an axis of any length is None."""

    name: str
    datatype: str
    shape: list[int | None]


class Version(TypedDict):
    """One version of a model."""

    model: str
    version: int
    digest: str
    size_bytes: int
    created: str
    source: str
    description: str
    pinned: bool
    unloaded: bool
    notes: list[str]
    run: dict[str, Any] | None


class Model(Version):
    """A model in the list, by its default version."""

    model_type: str
    versions: list[int]


class ModelDetails(Version):
    """A model whole: one version, what else there is, and its state on each modelhost."""

    model_type: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    image: dict[str, Any]
    default: int
    versions: list[Version]
    modelhosts: list[dict[str, Any]]


class Loaded(TypedDict):
    """A version that was loaded on purpose, and its state on each modelhost."""

    model: str
    version: int
    modelhosts: list[dict[str, Any]]


class Pulled(TypedDict):
    """What was downloaded, and where it lies."""

    version: int
    digest: str
    size_bytes: int
    path: str


class ApiKey(TypedDict):
    """What is told of an API key; `rate` in requests a second."""

    id: str
    name: str
    scopes: list[str]
    created: str
    expires: str | None
    rate: float | None


class NewKey(ApiKey):
    """A new one with the key itself."""

    key: str


class Run(TypedDict):
    """A training run; docs/api.md says what each field means."""

    run_id: str
    model: str
    state: str
    phase: str | None
    reason: str | None
    message: str | None
    retryable: bool
    created: str
    started: str | None
    ended: str | None
    parameters: dict[str, Any]
    limits: dict[str, Any]
    inputs: dict[str, Any]
    image: str | None
    image_digest: str | None
    engine: str | None
    exit_code: int | None
    resources: dict[str, Any]
    model_version: int | None
    retry_of: str | None
    who: str


class Metric(TypedDict):
    """A number that a run has told."""

    name: str
    value: float
    step: int | None


class Prediction(TypedDict):
    """An answer: the first output as `values`, those asked for by name as `outputs`."""

    values: Any
    outputs: NotRequired[dict[str, Any]]
    labels: NotRequired[list[str]]


def refusal(response: requests.Response) -> MLBuffetError:
    """The error that an answer tells of; one from elsewhere, a proxy for instance, by its status."""
    status = response.status_code
    by_status = next((kind for kind in all_errors() if kind.status == status), MLBuffetError)
    request_id = response.headers.get("X-Request-Id")
    try:
        told = response.json()["error"]
        error = from_code(told["code"], told["message"])
        if error.code != told["code"]:
            error = by_status(f"{told['message']} ({told['code']})")
    except (ValueError, KeyError, TypeError):
        error = by_status(f"the answer has the status {status} and does not say why")
    error.request_id = request_id
    if request_id is not None:
        error.add_note(f"request id: {request_id}")
    return error


def stranger(response: requests.Response) -> ConnectionFailedError:
    """The error for an answer that no MLBuffet server gives."""
    content_type = response.headers.get("Content-Type", "no type")
    return ConnectionFailedError(f"what answers at {response.url} is no MLBuffet server; received {content_type}")


def why(error: BaseException) -> str:
    """What was at the bottom of a failed connection."""
    if isinstance(error, requests.Timeout):
        return "it takes too long"
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
