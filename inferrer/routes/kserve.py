"""KServe's V1 protocol, which TensorFlow Serving's clients speak too: which models there are, ready, predict."""

import orjson
from flask import Blueprint, Response, request
from werkzeug.exceptions import MethodNotAllowed

from inferrer.routes.bodies import inflated, read_whole
from inferrer.routes.oip import json_answer
from inferrer.services import Services
from inferrer.states import check_ready
from inferrer.targets import answer_headers
from inferrer.terms import TIMEOUT_HEADER, check_json, timeout_of
from mlbuffet.channel import Codec, Payload
from mlbuffet.chassis.web import error_answer, request_id
from mlbuffet.errors import UnavailableError
from mlbuffet.names import parse_ref


def kserve_routes(services: Services) -> Blueprint:
    """The three calls of KServe's client; its fourth, `GET /`, is the greeting."""
    routes = Blueprint("kserve", __name__)

    @routes.get("/v1/models")
    def list_names() -> Response:
        """List the models' names (V1 of KServe).

        curl http://127.0.0.1:8002/v1/models
        """
        return json_answer({"models": sorted(services.index.models())})

    @routes.get("/v1/models/<name>")
    def show_ready(name: str) -> Response:
        """Tell whether a model's predictions can be answered now (V1 of KServe).

        curl http://127.0.0.1:8002/v1/models/iris.onnx
        """
        if name.endswith(":predict"):
            raise MethodNotAllowed(["OPTIONS", "POST"])  # the address is that of the route below
        manifest = services.index.manifest(parse_ref(name))
        try:
            check_ready(manifest, services.dataplane.replicas.ready())
        except UnavailableError as error:
            # No record: a prober asks every second, and what keeps it from being ready has one of its own.
            headers, _ = error_answer(error, request_id(), b"/v1")
            data = {"name": manifest.model, "ready": False, "error": error.message}
            return Response(orjson.dumps(data), error.status, headers)
        return json_answer({"name": manifest.model, "ready": True})

    @routes.post("/v1/models/<name>:predict")
    def predict_instances(name: str) -> Response:
        """Predict for each of several instances (V1 of KServe).

        curl -X POST http://127.0.0.1:8002/v1/models/iris.onnx:predict -d '{"instances": [[2, 5, 1, 4]]}'
        """
        timeout_s = timeout_of(request.headers.get(TIMEOUT_HEADER, ""), services.settings.timeout_s)
        check_json(request.headers.get("Content-Type", ""))
        payload = Payload(Codec.KSERVE, 0, read_whole(inflated(request)))
        on_gone = request.environ["mlbuffet.on_gone"]
        reply, _, target = services.dataplane.predict(name.encode(), payload, timeout_s, on_gone)
        return Response(reply, headers=answer_headers(target.manifest, hit=target.hit))

    return routes
