"""The Open Inference Protocol V2 over HTTP: health, metadata, inference, configuration and statistics."""

from collections.abc import Iterable

import orjson
from flask import Blueprint, Response, request

from inferrer.metadata import model_configuration, model_metadata, server_metadata
from inferrer.routes.bodies import inflated, read_whole
from inferrer.services import Services
from inferrer.states import check_ready
from inferrer.stats import ask_statistics, model_statistics
from inferrer.targets import answer_headers
from inferrer.terms import HEADER_LENGTH_HEADER, TIMEOUT_HEADER, check_tensor_type, tensor_codec, timeout_of
from mlbuffet.channel import Codec, Payload
from mlbuffet.chassis.web import JSON_TYPE, error_answer, request_id
from mlbuffet.errors import UnavailableError
from mlbuffet.index import ModelEntry
from mlbuffet.manifest import Manifest
from mlbuffet.names import ModelRef, parse_ref


def oip_routes(services: Services) -> Blueprint:
    """Everything of the protocol but the model repository."""
    routes = Blueprint("oip", __name__)
    routes.register_blueprint(_server(services))
    routes.register_blueprint(_models(services))
    routes.register_blueprint(_inference(services))
    return routes


def json_answer(data: object, status: int = 200) -> Response:
    """An answer without the V1 envelope."""
    return Response(orjson.dumps(data), status, content_type=JSON_TYPE)


def _server(services: Services) -> Blueprint:
    routes = Blueprint("oip_server", __name__)

    @routes.get("/v2")
    @routes.get("/v2/")
    def show_server() -> Response:
        """Show the server's name, version and extensions (V2).

        curl http://127.0.0.1:8002/v2
        """
        return json_answer(server_metadata())

    @routes.get("/v2/health/live")
    def show_live() -> Response:
        """Tell whether the process runs (V2).

        curl http://127.0.0.1:8002/v2/health/live
        """
        return json_answer({"live": True})

    @routes.get("/v2/health/ready")
    def show_ready() -> Response:
        """Tell whether predictions can be answered now (V2).

        curl http://127.0.0.1:8002/v2/health/ready
        """
        if services.dataplane.ready:
            return json_answer({"ready": True})
        why = "this inferrer is about to end" if services.dataplane.leaving else "no modelhost is ready"
        return _unrecorded(UnavailableError(why), {"ready": False})

    return routes


def _unrecorded(error: UnavailableError, data: dict[str, object]) -> Response:
    """An error that leaves no record: a prober asks every second, and what is behind it has a record of its own."""
    headers, _ = error_answer(error, request_id(), b"/v2")
    return Response(orjson.dumps({**data, "error": error.message}), error.status, headers)


def _models(services: Services) -> Blueprint:
    routes = Blueprint("oip_models", __name__)

    def find(name: str, version: str | None) -> tuple[ModelEntry, Manifest]:
        ref = parse_ref(_ref(name, version))
        entry = services.index.model(ref.name)
        return entry, entry.version(ref.version)

    @routes.get("/v2/models/<name>")
    @routes.get("/v2/models/<name>/versions/<version>")
    def show_metadata(name: str, version: str | None = None) -> Response:
        """Show a model's inputs and outputs (V2).

        curl http://127.0.0.1:8002/v2/models/iris.onnx
        """
        return json_answer(model_metadata(*find(name, version)))

    @routes.get("/v2/models/<name>/ready")
    @routes.get("/v2/models/<name>/versions/<version>/ready")
    def show_model_ready(name: str, version: str | None = None) -> Response:
        """Tell whether a model's predictions can be answered now (V2).

        curl http://127.0.0.1:8002/v2/models/iris.onnx/ready
        """
        _, manifest = find(name, version)
        try:
            check_ready(manifest, services.dataplane.replicas.ready())
        except UnavailableError as error:
            return _unrecorded(error, {"name": manifest.model, "ready": False})
        return json_answer({"name": manifest.model, "ready": True})

    @routes.get("/v2/models/<name>/config")
    @routes.get("/v2/models/<name>/versions/<version>/config")
    def show_configuration(name: str, version: str | None = None) -> Response:
        """Show a model's configuration, as Triton writes it (V2).

        curl http://127.0.0.1:8002/v2/models/iris.onnx/config
        """
        _, manifest = find(name, version)
        return json_answer(model_configuration(manifest, services.dataplane.replicas.ready()))

    @routes.get("/v2/models/<name>/stats")
    @routes.get("/v2/models/<name>/versions/<version>/stats")
    def show_statistics(name: str, version: str | None = None) -> Response:
        """Show how often a model ran and how long that took, over all modelhosts (V2).

        curl http://127.0.0.1:8002/v2/models/iris.onnx/stats
        """
        ref = parse_ref(_ref(name, version))
        entry = services.index.model(ref.name)
        versions = entry.versions.values() if ref.version is None else [entry.version(ref.version)]
        return _statistics(services, versions, ref)

    @routes.get("/v2/models/stats")
    def show_all_statistics() -> Response:
        """Show how often each model ran and how long that took, over all modelhosts (V2).

        curl http://127.0.0.1:8002/v2/models/stats
        """
        entries = services.index.models().values()
        return _statistics(services, [item for entry in entries for item in entry.versions.values()], None)

    return routes


def _ref(name: str, version: str | None) -> str:
    return name if version is None else f"{name}:{version}"


def _statistics(services: Services, versions: Iterable[Manifest], ref: ModelRef | None) -> Response:
    return json_answer({"model_stats": model_statistics(versions, ask_statistics(services.dataplane, ref))})


def _inference(services: Services) -> Blueprint:
    routes = Blueprint("oip_inference", __name__)

    @routes.post("/v2/models/<name>/infer")
    @routes.post("/v2/models/<name>/versions/<version>/infer")
    def infer(name: str, version: str | None = None) -> Response:
        """Predict from tensors, in JSON or as bytes behind it (V2).

        curl -X POST http://127.0.0.1:8002/v2/models/iris.onnx/infer -d '{"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [2, 5, 1, 4]}]}'
        """  # noqa: E501 - one line, to be copied
        timeout_s = timeout_of(request.headers.get(TIMEOUT_HEADER, ""), services.settings.timeout_s)
        stream = inflated(request)
        check_tensor_type(request.headers.get("Content-Type", ""))
        body, length = read_whole(stream), request.headers.get(HEADER_LENGTH_HEADER)
        codec, header_bytes = (Codec.OIP, 0) if length is None else tensor_codec(length, len(body))
        on_gone = request.environ["mlbuffet.on_gone"]
        ref, payload = _ref(name, version).encode(), Payload(codec, header_bytes, body)
        reply, split, target = services.dataplane.predict(ref, payload, timeout_s, on_gone)
        return Response(reply, headers=answer_headers(target.manifest, split, hit=target.hit))

    return routes
