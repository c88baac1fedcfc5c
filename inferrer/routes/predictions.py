"""The prediction route: the lane's answers for everything the lane leaves to Flask."""

from dataclasses import asdict
from functools import partial

import orjson
from flask import Blueprint, Response, request

from inferrer.routes.bodies import bounded, inflated, read_whole
from inferrer.services import Services
from inferrer.targets import answer_headers
from inferrer.terms import TIMEOUT_HEADER, codec_of, timeout_of
from mlbuffet.channel import Codec, Payload
from mlbuffet.chassis.forms import is_multipart, read_form
from mlbuffet.index import Index
from mlbuffet.names import parse_ref


def prediction_routes(services: Services) -> Blueprint:
    """Predictions by JSON or by image."""
    routes = Blueprint("predictions", __name__)

    @routes.route("/api/v1/models/<name>/prediction", methods=["GET", "POST"])
    def predict(name: str) -> Response:
        """Predict from values, or from an image in the form field `file`.

        curl -X POST http://127.0.0.1:8002/api/v1/models/iris.onnx/prediction -d '{"values": [2, 5, 1, 4]}'
        curl -X POST http://127.0.0.1:8002/api/v1/models/digits.onnx/prediction -F file=@models/images/seven.png
        """
        timeout_s = timeout_of(request.headers.get(TIMEOUT_HEADER, ""), services.settings.timeout_s)
        payload = _read_body(services.index, name)
        on_gone = request.environ["mlbuffet.on_gone"]
        reply, split, target = services.dataplane.predict(name.encode(), payload, timeout_s, on_gone)
        return Response(reply, headers=answer_headers(target.manifest, split, hit=target.hit))

    return routes


def _read_body(index: Index, name: str) -> Payload:
    """What goes to the modelhost: the body as it came, or an image with the model's settings in front."""
    stream = inflated(request)
    content_type = request.headers.get("Content-Type", "")
    if not is_multipart(content_type):
        codec = codec_of(content_type)
        if codec is Codec.BUFFET:
            return Payload(codec, 0, read_whole(stream))
    settings = index.manifest(parse_ref(name)).image  # first, so that a wrong name costs no upload
    form, fields = bytearray(), {}
    if is_multipart(content_type):
        names = {"files": ("file", "path"), "fields": ("outputs",)}
        fields = read_form(stream, content_type, **names, take=partial(_grow, form))
    image = form or read_whole(stream)  # of a form nothing is left
    options: dict[str, object] = {"image": asdict(settings)}
    if "outputs" in fields:
        wanted = fields["outputs"]
        options["outputs"] = wanted if wanted == "all" else wanted.split(",")
    text = orjson.dumps(options)
    return Payload(Codec.IMAGE, len(text), text + image)


def _grow(image: bytearray, part: bytes) -> None:
    image += part
    bounded(image)
