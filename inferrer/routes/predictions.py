"""The prediction route: the lane's answers for everything the lane leaves to Flask."""

from dataclasses import asdict
from typing import TypeVar

from flask import Blueprint, Response, request

from inferrer.services import Services
from inferrer.targets import reply_headers
from inferrer.terms import TIMEOUT_HEADER, check_encoding, codec_of, timeout_of
from mlbuffet.channel import Codec, pack_options
from mlbuffet.chassis.forms import is_multipart, read_chunks, read_form
from mlbuffet.chassis.request import PREDICT_BYTES
from mlbuffet.errors import TooLargeError
from mlbuffet.index import Index
from mlbuffet.names import parse_ref

B = TypeVar("B", bytes, bytearray)


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
        check_encoding(request.headers.get("Content-Encoding", ""))
        codec, body = _read_body(services.index, name)
        on_gone = request.environ["mlbuffet.on_gone"]
        reply, target = services.dataplane.predict(name.encode(), codec, body, timeout_s, on_gone)
        return Response(reply, headers=reply_headers(target.manifest))

    return routes


def _read_body(index: Index, name: str) -> tuple[Codec, bytes]:
    """What goes to the modelhost: the body as it came, or an image with the model's settings in front."""
    content_type = request.headers.get("Content-Type", "")
    if not is_multipart(content_type):
        codec = codec_of(content_type)
        if codec is Codec.BUFFET:
            return codec, _bounded(request.stream.read(PREDICT_BYTES + 1))
    settings = index.manifest(parse_ref(name)).image  # first, so that a wrong name costs no upload
    image, fields = bytearray(), {}
    if is_multipart(content_type):
        names = {"files": ("file", "path"), "fields": ("outputs",)}
        fields = read_form(request.stream, content_type, **names, take=lambda part: _grow(image, part))
    else:
        for chunk in read_chunks(request.stream):
            _grow(image, chunk)
    options: dict[str, object] = {"image": asdict(settings)}
    if "outputs" in fields:
        wanted = fields["outputs"]
        options["outputs"] = wanted if wanted == "all" else wanted.split(",")
    return Codec.IMAGE, pack_options(options, image)


def _grow(image: bytearray, part: bytes) -> None:
    image += part
    _bounded(image)


def _bounded(body: B) -> B:
    """Return a body that is not too large.

    Raises:
        TooLargeError: it is.
    """
    if len(body) > PREDICT_BYTES:
        msg = f"the body has at most {PREDICT_BYTES} bytes"
        raise TooLargeError(msg)
    return body
