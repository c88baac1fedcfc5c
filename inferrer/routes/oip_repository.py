"""The Open Inference Protocol's model repository extension: which versions there are, load, unload."""

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, request

from inferrer.audit import concerns
from inferrer.metadata import repository_index
from inferrer.routes.fields import json_object
from inferrer.routes.oip import json_answer
from inferrer.services import Services
from mlbuffet.errors import BadRequestError, UnprocessableError
from mlbuffet.names import parse_ref


def oip_repository_routes(services: Services) -> Blueprint:
    """Index, load and unload."""
    routes = Blueprint("oip_repository", __name__)

    @routes.post("/v2/repository/index")
    def list_repository() -> Response:
        """List every version with its state, or with `{"ready": true}` those that are ready (V2).

        curl -X POST http://127.0.0.1:8002/v2/repository/index -d '{"ready": true}'
        """
        ready = _options({"ready": bool}).get("ready", False)
        rows = repository_index(services.index.models(), services.dataplane.replicas.ready(), ready=ready)
        return json_answer(rows)

    @routes.post("/v2/repository/models/<name>/load")
    def load_model(name: str) -> Response:
        """Load a model on every modelhost; lifts a quarantine, and that it was unloaded (V2).

        curl -X POST http://127.0.0.1:8002/v2/repository/models/iris.onnx/load
        """
        _parameters({})
        concerns(services.controlplane.load(parse_ref(name)))
        return json_answer({})

    @routes.post("/v2/repository/models/<name>/unload")
    def unload_model(name: str) -> Response:
        """Take a model out of service and give its memory back, until it is loaded again (V2).

        curl -X POST http://127.0.0.1:8002/v2/repository/models/mine.onnx/unload
        """
        _parameters({"unload_dependents": bool})  # no model depends on another
        concerns(services.controlplane.unload(parse_ref(name)))
        return json_answer({})

    return routes


def _parameters(known: Mapping[str, type]) -> dict[str, Any]:
    """The parameters in the body, if there is any."""
    return _checked(_options({"parameters": dict}).get("parameters", {}), known)


def _options(known: Mapping[str, type]) -> dict[str, Any]:
    """The body's fields; an empty body has none.

    Raises:
        BadRequestError: no JSON object, a field that is not known here, or one of the wrong type.
    """
    try:
        data = json_object(request, default=b"{}")
    except UnprocessableError as error:
        raise BadRequestError(error.message) from None
    return _checked(data, known)


def _checked(data: Mapping[str, Any], known: Mapping[str, type]) -> dict[str, Any]:
    for name, value in data.items():
        if name not in known:
            msg = f"the fields taken are {', '.join(sorted(known)) or 'none'}; received {name[:80]!a}"
            raise BadRequestError(msg)
        if type(value) is not known[name]:
            msg = f"{name!r} is of the type {known[name].__name__}; received {type(value).__name__}"
            raise BadRequestError(msg)
    return dict(data)
