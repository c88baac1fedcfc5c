"""The operations of the Open Inference Protocol: KServe's V1 and V2, with Triton's extensions."""

from collections.abc import Iterable, Mapping
from typing import Any

from inferrer.openapi.operation import (
    CHANGE,
    FIELDS,
    LOADING,
    MODELHOST,
    NAME,
    PREDICTION,
    Errors,
    Json,
    Operation,
    Protocol,
    answered,
    json_body,
    open_object,
    reference,
    strict,
)
from inferrer.openapi.schemas import DATATYPES
from mlbuffet import errors

_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_YES_NO: Json = {"type": "boolean"}
_BINARY: Json = {"type": "string", "format": "binary"}
_TENSORS = "application/octet-stream"
_UNLOADED: Errors = frozenset({errors.ModelUnloadedError})
_READY: Errors = LOADING | _UNLOADED
_ROW: Json = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [2, 5, 1, 4]}


def _objects(properties: Json, required: Iterable[str]) -> Json:
    return {"type": "array", "items": open_object(properties, required)}


_PARAMETERS: Json = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_TENSOR: Json = {
    "name": _TEXT,
    "datatype": {"enum": DATATYPES},
    "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
}
_DATA: Json = {
    **_TENSOR,
    "shape": {"type": "array", "items": _COUNT},
    "parameters": _PARAMETERS,
    "data": {
        "type": "array",
        "description": "Flat or nested; left out where `binary_data_size` says that bytes follow.",
    },
}
_CONFIGURED: Json = _objects(
    {"name": _TEXT, "data_type": _TEXT, "dims": {"type": "array", "items": {"type": "integer"}}},
    ["name", "data_type", "dims"],
)
_DURATION = open_object({"count": _COUNT, "ns": _COUNT}, ["count", "ns"])
_STATISTICS: Json = {
    "name": _TEXT,
    "version": _TEXT,
    "last_inference": _COUNT,
    "inference_count": _COUNT,
    "execution_count": _COUNT,
    "inference_stats": {"type": "object", "additionalProperties": _DURATION},
    "batch_stats": {"type": "array"},
}

SCHEMAS: Json = {
    "V2Metadata": open_object(
        {
            "name": _TEXT,
            "versions": {"type": "array", "items": _TEXT},
            "platform": _TEXT,
            "inputs": _objects(_TENSOR, _TENSOR),
            "outputs": _objects(_TENSOR, _TENSOR),
        },
        ["name", "versions", "platform", "inputs", "outputs"],
    ),
    "V2Configuration": open_object(
        {
            "name": _TEXT,
            "platform": _TEXT,
            "backend": _TEXT,
            "max_batch_size": _COUNT,
            "input": _CONFIGURED,
            "output": _CONFIGURED,
        },
        ["name", "platform", "backend", "max_batch_size", "input", "output"],
    ),
    "V2Statistics": open_object({"model_stats": _objects(_STATISTICS, _STATISTICS)}, ["model_stats"]),
    "V2Request": open_object(
        {
            "id": _TEXT,
            "parameters": _PARAMETERS,
            "inputs": _objects(_DATA, ["name", "shape", "datatype"]),
            "outputs": _objects({"name": _TEXT, "parameters": _PARAMETERS}, ["name"]),
        },
        ["inputs"],
    ),
    "V2Response": open_object(
        {"model_name": _TEXT, "model_version": _TEXT, "id": _TEXT, "outputs": _objects(_DATA, _TENSOR)},
        ["model_name", "outputs"],
    ),
    "Instances": {
        "description": "A list with an entry for each observation: its values, or an object with each input's.",
        **open_object({"instances": {"type": "array", "minItems": 1}, "inputs": {"type": ["array", "object"]}}),
        "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    },
}


def _json(description: str, properties: Json, required: Iterable[str] | None = None) -> Json:
    schema = open_object(properties, properties if required is None else required)
    return {"200": answered(description, schema)}


def _component(description: str, name: str) -> Json:
    return {"200": answered(description, reference(name))}


def _operation(tag: str, answers: Json, errors_: Errors = frozenset(), **more: Any) -> Operation:  # noqa: ANN401 - as Operation takes them
    return Operation(tag, answers, errors_, protocol=Protocol.V2, **more)


def _options(schema: Json, example: object) -> Json:
    """A body that may be left out."""
    return json_body(strict(schema), example, required=False)


_INFER_BODY: Json = {
    "required": True,
    "content": {
        **json_body(reference("V2Request"), {"inputs": [_ROW]})["content"],
        _TENSORS: {"schema": _BINARY},
    },
}
_INFERRED = answered(
    "The outputs.", reference("V2Response"), "X-Model-Version=ModelVersion", "Inference-Header-Content-Length=Split"
)
_INFERRED["content"][_TENSORS] = {"schema": _BINARY}

V2: Mapping[str, Operation] = {
    "v2_show_server": _operation(
        "V2", _json("The server.", {"name": _TEXT, "version": _TEXT, "extensions": {"type": "array", "items": _TEXT}})
    ),
    "v2_show_live": _operation("V2", _json("The process runs.", {"live": {"const": True}})),
    "v2_show_ready": _operation("V2", _json("Predictions are answered.", {"ready": {"const": True}}), MODELHOST),
    "v2_show_metadata": _operation("V2", _component("Inputs and outputs.", "V2Metadata"), NAME),
    "v2_show_model_ready": _operation(
        "V2", _json("Its predictions are answered.", {"name": _TEXT, "ready": {"const": True}}), NAME | _READY
    ),
    "v2_show_configuration": _operation("V2", _component("Triton's ModelConfig.", "V2Configuration"), NAME),
    "v2_show_statistics": _operation("V2", _component("Counts and times.", "V2Statistics"), NAME | MODELHOST),
    "v2_show_all_statistics": _operation("V2", _component("Counts and times.", "V2Statistics"), MODELHOST),
    "v2_infer": _operation(
        "V2",
        {"200": _INFERRED},
        PREDICTION | _UNLOADED,
        parameters=("Timeout", "RequestId", "Split"),
        body=_INFER_BODY,
    ),
    "v2_list_repository": _operation(
        "V2",
        {
            "200": answered(
                "Every version.",
                _objects(
                    {"name": _TEXT, "version": _TEXT, "state": _TEXT, "reason": _TEXT},
                    ["name", "version", "state", "reason"],
                ),
            )
        },
        FIELDS,
        body=_options({"ready": _YES_NO}, {"ready": True}),
    ),
    "v2_load_model": _operation(
        "V2",
        _json("It is loaded.", {}),
        NAME | FIELDS | CHANGE | _READY,
        body=_options({"parameters": strict({})}, {}),
    ),
    "v2_unload_model": _operation(
        "V2",
        _json("It is unloaded.", {}),
        NAME | FIELDS | CHANGE | MODELHOST,
        body=_options({"parameters": strict({"unload_dependents": _YES_NO})}, {}),
    ),
    "v2_model_openapi": _operation("documentation", _json("The model's document.", {}), NAME),
}

KSERVE: Mapping[str, Operation] = {
    "v1_list_names": _operation(
        "V1 of KServe", _json("Every model's name.", {"models": {"type": "array", "items": _TEXT}})
    ),
    "v1_show_ready": _operation(
        "V1 of KServe", _json("Its predictions are answered.", {"name": _TEXT, "ready": {"const": True}}), NAME | _READY
    ),
    "v1_predict_instances": _operation(
        "V1 of KServe",
        {
            "200": answered(
                "A prediction for each instance.",
                open_object({"predictions": {"type": "array"}}, ["predictions"]),
                "X-Model-Version=ModelVersion",
            )
        },
        PREDICTION | _UNLOADED,
        parameters=("Timeout", "RequestId"),
        body=json_body(reference("Instances"), {"instances": [[2, 5, 1, 4]]}),
    ),
}
