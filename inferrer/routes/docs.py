"""The documentation routes: OpenAPI, and a page to try it. Everything the page needs comes from here."""

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

import orjson
from flask import Blueprint, Response, current_app

from inferrer.openapi.document import describe
from inferrer.openapi.model import describe_model
from inferrer.services import Services
from mlbuffet.chassis.web import JSON_TYPE
from mlbuffet.errors import NotFoundError
from mlbuffet.names import parse_ref

_SWAGGER_UI = files("flask_swagger_ui") / "dist"
_PAGE = files("inferrer") / "page"
_SCRIPT, _STYLE, _PICTURE = "text/javascript; charset=utf-8", "text/css; charset=utf-8", "image/png"
_ASSETS: dict[str, tuple[Traversable, str]] = {
    "page.js": (_PAGE / "page.js", _SCRIPT),
    "swagger-ui-bundle.js": (_SWAGGER_UI / "swagger-ui-bundle.js", _SCRIPT),
    "swagger-ui.css": (_SWAGGER_UI / "swagger-ui.css", _STYLE),
    "favicon-32x32.png": (_SWAGGER_UI / "favicon-32x32.png", _PICTURE),
}
# The page takes nothing from elsewhere, sends nothing elsewhere and stands in no other page.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def documentation_routes(services: Services) -> Blueprint:
    """OpenAPI of all routes and of each model, and the page."""
    routes = Blueprint("documentation", __name__)

    @cache
    def document() -> bytes:
        return orjson.dumps(describe(current_app))

    @routes.get("/openapi.json")
    def openapi() -> Response:
        """Describe every route in OpenAPI 3.1.

        curl http://127.0.0.1:8002/openapi.json
        """
        return Response(document(), content_type=JSON_TYPE)

    @routes.get("/v2/models/<name>/openapi.json")
    @routes.get("/v2/models/<name>/versions/<version>/openapi.json")
    def model_openapi(name: str, version: str | None = None) -> Response:
        """Describe one model in OpenAPI 3.1, with its own tensors and an example (V2).

        curl http://127.0.0.1:8002/v2/models/iris.onnx/openapi.json
        """
        manifest = services.index.manifest(parse_ref(name if version is None else f"{name}:{version}"))
        return Response(orjson.dumps(describe_model(manifest, name, version)), content_type=JSON_TYPE)

    @routes.get("/docs")
    def show_page() -> Response:
        """Show a page on which every route can be tried; `?model=` shows one model's.

        curl http://127.0.0.1:8002/docs
        """
        html = (_PAGE / "index.html").read_bytes()
        return Response(html, headers={"Content-Security-Policy": _POLICY}, content_type="text/html; charset=utf-8")

    @routes.get("/docs/<asset>")
    def show_asset(asset: str) -> Response:
        """Give a script, style sheet or picture of the page.

        curl http://127.0.0.1:8002/docs/page.js
        """
        if asset not in _ASSETS:
            msg = "the page has no such file"
            raise NotFoundError(msg)
        file, content_type = _ASSETS[asset]
        return Response(file.read_bytes(), headers={"Cache-Control": "max-age=3600"}, content_type=content_type)

    return routes
