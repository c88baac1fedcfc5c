"""What the operations refer to by name: schemas, parameters and header fields."""

from typing import Any

from inferrer.openapi.operation import Json, open_object, reference, strict

_NAME = "[A-Za-z0-9](\\.?[A-Za-z0-9_-])*\\.?"
_VERSION = "[1-9][0-9]{0,8}"
_DIGEST = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
_TEXT: Json = {"type": "string"}
_TEXTS: Json = {"type": "array", "items": _TEXT}
_COUNT: Json = {"type": "integer", "minimum": 0}
_DIGITS: Json = {"type": "string", "pattern": "^[0-9]+$"}
_NUMBER: Json = {"type": "integer", "minimum": 1}
_YES_NO: Json = {"type": "boolean"}
_NUMBERS: Json = {"type": "array", "items": {"type": "number"}, "maxItems": 4}
DATATYPES = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"),
    "BYTES",
)


def enveloped(properties: Json, *optional: str) -> dict[str, Any]:
    """An answer of V1: the envelope and these fields."""
    required = ["http_status", *(name for name in properties if name not in optional)]
    return open_object({"http_status": reference("HttpStatus"), **properties}, required)


def _parameter(name: str, place: str, schema: Json, description: str, *, example: object = None) -> dict[str, Any]:
    shown = {} if example is None else {"example": example}
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": description,
        "schema": schema,
        **shown,
    }


def _header(description: str, schema: Json = _TEXT) -> dict[str, Any]:
    return {"description": description, "schema": schema}


_VERSION_FIELDS: Json = {
    "model": _TEXT,
    "version": _NUMBER,
    "digest": _DIGEST,
    "size_bytes": _COUNT,
    "created": {"type": "string", "format": "date-time"},
    "source": {"enum": ["upload", "adopted file", "sample", "training"]},
    "description": _TEXT,
    "pinned": _YES_NO,
    "unloaded": _YES_NO,
    "serving": reference("ServingSettings"),
    "notes": _TEXTS,
    "run": {"type": ["object", "null"], "description": "the training run that made it"},
}
_DETAIL_FIELDS: Json = {
    "model_type": _TEXT,
    "inputs": {"type": "array", "items": reference("Tensor")},
    "outputs": {"type": "array", "items": reference("Tensor")},
    "image": reference("ImageSettings"),
    "default": _NUMBER,
    "versions": {"type": "array", "items": reference("Version")},
    "modelhosts": {"type": "array", "items": reference("HostedVersion")},
    "input_name": {"type": ["string", "null"]},
    "num_inputs": _COUNT,
    "output_name": {"type": ["string", "null"]},
}
_HTTP_STATUS = open_object(
    {"code": {"type": "integer"}, "name": _TEXT, "description": _TEXT}, ["code", "name", "description"]
)
_ERROR = open_object(
    {"code": _TEXT, "message": _TEXT, "request_id": _TEXT, "retryable": _YES_NO},
    ["code", "message", "request_id", "retryable"],
)
_TENSOR = open_object(
    {
        "name": _TEXT,
        "datatype": {"enum": DATATYPES},
        "shape": {"type": "array", "items": {"type": ["integer", "null"]}, "description": "null: any length"},
    },
    ["name", "datatype", "shape"],
)
_HOSTED = open_object(
    {
        "modelhost": _TEXT,
        "ready": _YES_NO,
        "in_flight": _COUNT,
        "state": {"enum": ["LOADING", "READY", "UNLOADING", "UNAVAILABLE", "QUARANTINED"]},
        "reason": _TEXT,
        "code": _TEXT,
    },
    ["modelhost", "ready", "in_flight", "state", "reason"],
)
_IMAGE = strict(
    {
        "scale": {"type": "number", "default": 1.0},
        "mean": _NUMBERS,
        "std": _NUMBERS | {"items": {"type": "number", "not": {"const": 0}}},
        "labels": {"type": "array", "items": _TEXT, "maxItems": 100_000},
    }
)


def _or_null(most: int) -> dict[str, Any]:
    return {"anyOf": [{"type": "integer", "minimum": 1, "maximum": most}, {"type": "null"}]}


_SERVING = strict(
    {
        "batch_rows": _or_null(1024) | {"description": "run together at most"},
        "runners": _or_null(64) | {"description": "processes on each modelhost"},
        "threads": _or_null(256) | {"description": "of each run"},
        "cache": _YES_NO | {"description": "answer an exact repetition without running", "default": False},
    }
)
_VALUES: Json = {
    "description": "A list where the model has one input; an object with a list for each input for any model.",
    "anyOf": [{"type": "array"}, {"type": "object", "additionalProperties": {"type": "array"}}],
}
_WANTED: Json = {"anyOf": [{"const": "all"}, _TEXTS | {"minItems": 1, "uniqueItems": True}, {"type": "null"}]}
_PREDICTION = enveloped(
    {"values": {}, "outputs": {"type": "object"}, "labels": _TEXTS | {"description": "of a picture's classes"}},
    "outputs",
    "labels",
)

_KEY_FIELDS: Json = {
    "id": _TEXT,
    "name": _TEXT,
    "scopes": _TEXTS,
    "created": {"type": "string", "format": "date-time"},
    "expires": {"type": ["string", "null"], "format": "date-time"},
    "rate": {"type": ["number", "null"]},
}

SCHEMAS: Json = {
    "ApiKey": open_object(_KEY_FIELDS, _KEY_FIELDS),
    "NewApiKey": enveloped(_KEY_FIELDS | {"key": _TEXT}),
    "HttpStatus": _HTTP_STATUS,
    "Error": open_object({"http_status": reference("HttpStatus"), "error": _ERROR}, ["http_status", "error"]),
    "V2Error": open_object({"error": _TEXT}, ["error"]),
    "Tensor": _TENSOR,
    "ImageSettings": _IMAGE,
    "ServingSettings": _SERVING,
    "HostedVersion": _HOSTED,
    "Version": open_object(_VERSION_FIELDS, _VERSION_FIELDS),
    "VersionAnswer": enveloped(_VERSION_FIELDS),
    "ModelSummary": open_object(
        _VERSION_FIELDS | {"model_type": _TEXT, "versions": {"type": "array", "items": _NUMBER}}, _VERSION_FIELDS
    ),
    "ModelDetails": enveloped(_VERSION_FIELDS | _DETAIL_FIELDS),
    "Values": strict({"values": _VALUES, "outputs": _WANTED}, ["values"]),
    "Prediction": _PREDICTION,
}

_BARE: Json = {"type": "string", "pattern": f"^{_NAME}$", "maxLength": 64}
_REF: Json = _BARE | {"pattern": f"^{_NAME}(:(default|{_VERSION}))?$"}
_REF_TEXT = "A model: its default version, or one as `name:3`."

PARAMETERS: Json = {
    "Name": _parameter("name", "path", _BARE, "A model.", example="mine.onnx"),
    "Ref": _parameter("name", "path", _REF, _REF_TEXT, example="iris.onnx"),
    "VersionNumber": _parameter(
        "version", "path", {"type": "string", "pattern": f"^{_VERSION}$"}, "One of its versions.", example="1"
    ),
    "Limit": _parameter(
        "limit", "query", {"type": "integer", "minimum": 1, "maximum": 10_000}, "How many at most.", example=100
    ),
    "After": _parameter("after", "query", _TEXT, "Only names after this one: `next` of the page before."),
    "RequestId": _parameter(
        "X-Request-Id", "header", _TEXT, "Your name for the request, 1 to 64 of A-Z a-z 0-9 . _ : -; else one of ours."
    ),
    "Timeout": _parameter(
        "X-Request-Timeout-Ms",
        "header",
        {"type": "integer", "minimum": 1, "maximum": 3_600_000},
        "How long the prediction may take; past it the answer is 504.",
        example=5000,
    ),
    "Split": _parameter(
        "Inference-Header-Content-Length",
        "header",
        {"type": "integer", "minimum": 0},
        "How much of the body is JSON, where tensors follow; 0: the one input's bare bytes.",
    ),
    "IdempotencyKey": _parameter(
        "Idempotency-Key",
        "header",
        {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"},
        "An upload with a key that this model has seen makes no second version.",
    ),
    "IfMatch": _parameter("If-Match", "header", _TEXT, "Digest of the version that is replaced, or `*` for any."),
    "ContentDigest": _parameter(
        "Content-Digest",
        "header",
        {"type": "string", "pattern": "^sha-256=:[A-Za-z0-9+/]{43}=:$"},
        "The file's digest (RFC 9530).",
    ),
    "ContentSha256": _parameter(
        "X-Content-SHA256",
        "header",
        {"type": "string", "pattern": "^(sha256:)?[0-9a-fA-F]{64}$"},
        "The file's digest in hexadecimal digits.",
    ),
    "KeyId": _parameter(
        "key_id", "path", {"type": "string", "pattern": "^[^/]+$"}, "A key's id.", example="3f9c01aa52d7"
    ),
    "RunId": _parameter(
        "run_id",
        "path",
        {"type": "string", "pattern": "^[0-9]{8}t[0-9]{6}-[0-9a-f]{8}$"},
        "A training run.",
        example="20261129t131405-3f9c01aa",
    ),
    "OfModel": _parameter("model", "query", _TEXT, "Only runs for this model."),
    "InState": _parameter(
        "state", "query", {"enum": ["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]}, "Only runs in this state."
    ),
    "Offset": _parameter("offset", "query", _COUNT, "Where to begin, in bytes."),
    "Follow": _parameter("follow", "query", {"enum": ["0", "1"]}, "Go on, as server-sent events, until the run ends."),
    "LastEventId": _parameter("Last-Event-ID", "header", _DIGITS, "Where to go on: the last event's id."),
    "Asset": _parameter(
        "asset", "path", {"type": "string", "pattern": "^[^/]+$"}, "A file of the page.", example="docs.js"
    ),
}

HEADERS: Json = {
    "RequestId": _header("The request's name.", {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$"}),
    "RetryAfter": _header("Seconds after which the same request may succeed.", _DIGITS),
    "Split": _header("How much of the answer is JSON, where tensors follow.", _DIGITS),
    "ModelVersion": _header("The version that answered.", {"type": "string", "pattern": f"^{_VERSION}$"}),
    "Location": _header("The address of what was made."),
    "ETag": _header("The file's digest, in quotes."),
}

SECURITY: Json = {
    "Bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer <id>.<secret>`"},
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}
