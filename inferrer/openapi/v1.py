"""The operations of V1, of the service itself and of the documentation."""

from collections.abc import Mapping
from typing import Any

from inferrer.openapi.operation import (
    CHANGE,
    FIELDS,
    LOADING,
    MODELHOST,
    NAME,
    PREDICTION,
    STORED,
    UPLOAD,
    Json,
    Operation,
    answered,
    json_body,
    open_object,
    reference,
    strict,
)
from inferrer.openapi.schemas import enveloped
from mlbuffet import errors
from mlbuffet.keys import SCOPES

_TEXT: Json = {"type": "string"}
_ANYTHING: Json = {"type": "object"}
_VERSION = reference("VersionAnswer")
_BINARY: Json = {"type": "string", "format": "binary"}
_IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/bmp")
_PAGE = ("Limit", "After")
_PREDICTED = "X-Model-Version=ModelVersion"


def _listed(items: Json) -> Json:
    fields = {"model_list": {"type": "array", "items": items}, "next": _TEXT}
    return {"200": answered("A page of models.", enveloped(fields, "next"))}


def _only(description: str, fields: Json, *optional: str) -> Json:
    return {"200": answered(description, enveloped(fields, *optional))}


def _text(description: str, media_type: str) -> Json:
    return {"200": answered(description, _TEXT, media_type=media_type)}


def _form(files: Mapping[str, Json], fields: Json, required: list[str]) -> dict[str, Any]:
    return {"multipart/form-data": {"schema": strict({**files, **fields}, required)}}


_VALUES_BODY = json_body(reference("Values"), {"values": [2, 5, 1, 4]})
_PREDICTION_BODY: Json = {
    "required": True,
    "content": {
        **_VALUES_BODY["content"],
        **_form({"file": _BINARY}, {"outputs": _TEXT | {"pattern": "^(all|[^,]+(,[^,]+)*)$"}}, ["file"]),
        **{image: {"schema": _BINARY} for image in _IMAGE_TYPES},
    },
}
_UPLOAD_BODY: Json = {
    "required": True,
    "content": {
        **_form(
            {"path": _BINARY},
            {"model_description": _TEXT, "image": _TEXT, "activate": {"enum": ["true", "false"]}, "run": _TEXT},
            ["path"],
        ),
        "application/octet-stream": {"schema": _BINARY},
    },
}
_CHANGES = strict(
    {
        "model_description": {"type": "string", "maxLength": 10_000},
        "image": reference("ImageSettings"),
        "pinned": {"type": "boolean"},
        "serving": reference("ServingSettings"),
    },
    minProperties=1,
)
_SERVED: Json = {
    "type": "array",
    "items": open_object({"modelhost": _TEXT, "element": {}}, ["modelhost", "element"]),
}
_WISH = strict(
    {
        "name": {"type": "string", "minLength": 1, "maxLength": 100},
        "scopes": {"type": "array", "items": {"enum": SCOPES}, "minItems": 1, "uniqueItems": True},
        "expires": {"type": ["string", "null"], "format": "date-time"},
        "rate": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1e6, "description": "requests a second"},
    },
    ["name", "scopes"],
)
_HOSTED: Json = {"type": "array", "items": reference("HostedVersion")}

MODELS: Mapping[str, Operation] = {
    "list_models": Operation("models", _listed(_TEXT), parameters=_PAGE),
    "list_information": Operation("models", _listed(reference("ModelSummary")), parameters=_PAGE),
    "show_model": Operation("models", {"200": answered("The model.", reference("ModelDetails"))}, NAME),
    "download_model": Operation(
        "models",
        {"200": answered("The file.", _BINARY, _PREDICTED, "ETag=ETag", media_type="application/octet-stream")},
        NAME | {errors.ModelCorruptError},
    ),
    "upload_model": Operation(
        "models",
        {
            "200": answered("These bytes are the default version already.", _VERSION, "Location=Location"),
            "201": answered("A version was made.", _VERSION, "Location=Location"),
        },
        UPLOAD,
        ("IdempotencyKey", "IfMatch", "ContentDigest", "ContentSha256"),
        _UPLOAD_BODY,
        named="Name",
    ),
    "describe_model": Operation(
        "models",
        {"200": answered("The version as it is now.", _VERSION)},
        NAME | FIELDS | CHANGE,
        body=json_body(_CHANGES, {"model_description": "Iris species"}),
    ),
    "set_default": Operation(
        "models",
        _only("The default version.", {"model": _TEXT, "default": {"type": "integer"}}),
        NAME | FIELDS | CHANGE | LOADING,
        body=json_body(
            open_object({"default": {"type": "integer", "minimum": 1, "maximum": 999_999_999}}, ["default"]),
            {"default": 1},
        ),
    ),
    "load_model": Operation(
        "models",
        _only("It is loaded.", {"model": _TEXT, "version": {"type": "integer"}, "modelhosts": _HOSTED}),
        NAME | LOADING | CHANGE,
    ),
    "unload_model": Operation("models", {"200": answered("It is unloaded.", _VERSION)}, NAME | CHANGE | MODELHOST),
    "delete_model": Operation(
        "models",
        _only("It is deleted.", {"deleted": _TEXT}),
        NAME | CHANGE | {errors.DefaultVersionError},
    ),
    "update_models": Operation(
        "models",
        _only(
            "What was taken over.",
            {name: {"type": "array"} for name in ("adopted", "forgotten", "changed", "refused")},
        ),
        CHANGE,
    ),
    "predict": Operation(
        "predictions",
        {"200": answered("The outputs.", reference("Prediction"), _PREDICTED)},
        PREDICTION | {errors.InvalidImageError, errors.BadMultipartError, errors.ModelUnloadedError},
        ("Timeout", "RequestId"),
        _PREDICTION_BODY,
    ),
}

KEYS: Mapping[str, Operation] = {
    "list_keys": Operation("keys", _only("The keys.", {"keys": {"type": "array", "items": reference("ApiKey")}})),
    "create_key": Operation(
        "keys",
        {"201": answered("The key; no other answer shows it.", reference("NewApiKey"), "Location=Location")},
        FIELDS | STORED | {errors.ConflictError},
        body=json_body(_WISH, {"name": "me", "scopes": ["admin"]}),
    ),
    "revoke_key": Operation(
        "keys",
        _only("It is revoked.", {"revoked": _TEXT}),
        STORED | {errors.NotFoundError, errors.ConflictError},
    ),
}

SERVICE: Mapping[str, Operation] = {
    "greet": Operation("service", _only("The greeting.", {"status": {"const": "alive"}})),
    "show_help": Operation("service", _text("Every route, as text.", "text/plain")),
    "test": Operation("service", _only("The inferrer is reached.", {})),
    "send_to_modelhost": Operation(
        "service",
        _only("Who served which element.", {"served": _SERVED}),
        FIELDS | MODELHOST,
        body=json_body(
            {"type": "object", "properties": {"data": {"type": "array", "maxItems": 10_000}}, "required": ["data"]},
            {"data": ["a", "b", "c"]},
        ),
    ),
    "live": Operation("service", _only("The process runs.", {"live": {"const": True}})),
    "ready": Operation(
        "service", _only("Predictions are answered.", {"ready": {"const": True}}), frozenset({errors.UnavailableError})
    ),
    "metrics_page": Operation("service", _text("Prometheus' text format.", "text/plain")),
    "openapi": Operation("documentation", {"200": answered("This document.", _ANYTHING)}),
    "show_page": Operation("documentation", _text("A page to try it.", "text/html")),
    "show_asset": Operation(
        "documentation",
        {"200": {"description": "The file."}},
        frozenset({errors.NotFoundError}),
    ),
}
