"""The operations of training: what the trainer answers, handed through by the inferrer."""

from collections.abc import Mapping

from inferrer.openapi.operation import CHANGE, NAME, Json, Operation, answered, open_object, reference, strict
from inferrer.openapi.schemas import enveloped
from mlbuffet import errors

_TEXT: Json = {"type": "string"}
_OR_NONE: Json = {"type": ["string", "null"]}
_COUNT: Json = {"type": "integer", "minimum": 0}
_YES_NO: Json = {"type": "boolean"}
_BINARY: Json = {"type": "string", "format": "binary"}
_MOMENT: Json = {"type": "string", "format": "date-time"}
_MOMENT_OR_NONE: Json = {"type": ["string", "null"], "format": "date-time"}
STATES = ("SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED")

_FILE = open_object({"sha256": _TEXT, "size_bytes": _COUNT}, ["sha256", "size_bytes"])
_DATASET: Json = {"type": "array", "items": open_object({"name": _TEXT, "sha256": _TEXT, "size_bytes": _COUNT})}
_RUN: Json = {
    "run_id": _TEXT,
    "model": _TEXT,
    "state": {"enum": STATES},
    "phase": {"enum": ["PREPARING", "TRAINING", "REGISTERING", None]},
    "reason": _OR_NONE,
    "message": _OR_NONE,
    "retryable": _YES_NO,
    "created": _MOMENT,
    "started": _MOMENT_OR_NONE,
    "ended": _MOMENT_OR_NONE,
    "parameters": {"type": "object"},
    "description": _OR_NONE,
    "activate": _YES_NO,
    "limits": open_object({"timeout_s": {"type": "number"}, "memory_bytes": _COUNT, "cpus": {"type": "number"}}),
    "inputs": open_object({"script": _FILE, "requirements": _FILE, "dataset": _DATASET}),
    "image": _OR_NONE,
    "image_digest": _OR_NONE,
    "engine": _OR_NONE,
    "exit_code": {"type": ["integer", "null"]},
    "resources": open_object(
        {"max_memory_bytes": _COUNT, "cpu_s": {"type": "number"}, "log_bytes": _COUNT, "log_truncated": _YES_NO}
    ),
    "model_version": {"type": ["integer", "null"]},
    "retry_of": _OR_NONE,
    "who": _TEXT,
}
SCHEMAS: Json = {
    "Run": open_object(_RUN, _RUN),
    "RunAnswer": enveloped(_RUN),
}
_SUBMITTED = strict(
    {
        "script": _BINARY,
        "requirements": _BINARY,
        "dataset": {"anyOf": [_BINARY, {"type": "array", "items": _BINARY, "minItems": 1}]},
        "parameters": _TEXT | {"description": "a JSON object of texts, numbers, true or false"},
        **{name: _TEXT | {"pattern": "^[0-9.]+$"} for name in ("timeout_s", "memory_bytes", "cpus")},
        "description": _TEXT,
        "activate": {"enum": ["true", "false"]},
        "retries": {"enum": ["0", "1"]},
    },
    ["script", "requirements", "dataset"],
)
_TRAINER = frozenset({errors.TrainerUnavailableError, errors.UnavailableError})
_FOUND = _TRAINER | {errors.RunNotFoundError}
_BEGUN = (
    _TRAINER | CHANGE | {errors.EngineUnavailableError, errors.QueueFullError, errors.IdempotencyConflictError}
) - {errors.ModelBusyError}
_ACCEPTED: Json = {"202": answered("A run was made.", reference("RunAnswer"), "Location=Location")}
_SHOWN: Json = {"200": answered("The run.", reference("RunAnswer"))}
_METRICS: Json = {"type": "array", "items": open_object({"name": _TEXT, "value": {}, "step": {}}, ["name", "value"])}

TRAINING: Mapping[str, Operation] = {
    "train_model": Operation(
        "training",
        _ACCEPTED,
        (NAME - {errors.ModelNotFoundError, errors.VersionNotFoundError})
        | _BEGUN
        | {
            errors.UnprocessableError,
            errors.InvalidJSONError,
            errors.InvalidNumberError,
            errors.BadMultipartError,
            errors.MissingScriptError,
            errors.MissingRequirementsError,
            errors.MissingDatasetError,
            errors.InvalidRequirementsError,
        },
        ("IdempotencyKey",),
        {"required": True, "content": {"multipart/form-data": {"schema": _SUBMITTED}}},
        named="Name",
    ),
    "list_runs": Operation(
        "training",
        {
            "200": answered(
                "A page of runs.",
                enveloped({"runs": {"type": "array", "items": reference("Run")}, "next": _TEXT}, "next"),
            )
        },
        _TRAINER,
        ("Limit", "After", "OfModel", "InState"),
    ),
    "show_run": Operation("training", _SHOWN, _FOUND),
    "show_run_log": Operation(
        "training",
        {
            "200": {
                **answered("What it has printed.", _TEXT, media_type="text/plain"),
                "content": {"text/plain": {"schema": _TEXT}, "text/event-stream": {"schema": _TEXT}},
            }
        },
        _FOUND,
        ("Offset", "Follow", "LastEventId"),
    ),
    "show_run_metrics": Operation(
        "training", {"200": answered("The metrics.", enveloped({"run_id": _TEXT, "metrics": _METRICS}))}, _FOUND
    ),
    "cancel_run": Operation("training", _SHOWN, _FOUND | {errors.RunEndedError}),
    "retry_run": Operation("training", _ACCEPTED, _FOUND | _BEGUN | {errors.RunActiveError}, ("IdempotencyKey",)),
    "delete_run": Operation(
        "training",
        {"200": answered("It is deleted.", enveloped({"deleted": _TEXT}))},
        _FOUND | {errors.RunActiveError},
    ),
}
