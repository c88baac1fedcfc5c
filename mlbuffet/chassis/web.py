"""What Flask does alike in every service: the V1 envelope, errors as answers, health and metrics routes."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from flask import Blueprint, Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST
from werkzeug.exceptions import HTTPException

from mlbuffet.chassis.connection import HttpConnection
from mlbuffet.chassis.context import FIELD, context_line, current_context, read_traceparent
from mlbuffet.chassis.request import Request, Room, phrase_of
from mlbuffet.errors import (
    BadRequestError,
    ClientGoneError,
    MethodNotAllowedError,
    MLBuffetError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)

log = logging.getLogger(__name__)

JSON_TYPE = "application/json"
CLIENT_GONE = 499  # nginx's number for a request whose client did not wait for the answer


def http_status(status: int) -> dict[str, object]:
    """The part of every JSON answer that repeats the transport's status."""
    name = phrase_of(status)
    return {"code": status, "name": name, "description": HTTPStatus(status).description or name}


def answer(
    data: Mapping[str, object] | None = None, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer in the V1 envelope."""
    body = orjson.dumps({"http_status": http_status(status), **(data or {})})
    return Response(body, status, headers, content_type=JSON_TYPE)


def error_answer(error: MLBuffetError, request_id: str, path: bytes) -> tuple[list[tuple[str, str]], bytes]:
    """Headers and body of an error in the shape of the protocol that is spoken at `path`.

    The one mapping of errors to HTTP.
    """
    headers = [("Content-Type", JSON_TYPE)]
    if error.retry_after_s is not None:
        headers.append(("Retry-After", str(error.retry_after_s)))
    if error.status == UnauthenticatedError.status:
        headers.append(("WWW-Authenticate", "Bearer"))
    if (path + b"/").startswith((b"/v1/", b"/v2/")):
        headers.append(("X-Error-Code", error.code))
        return headers, orjson.dumps({"error": error.message})
    details = {
        "code": error.code,
        "message": error.message,
        "request_id": request_id,
        "retryable": error.retryable,
    }
    return headers, orjson.dumps({"http_status": http_status(error.status), "error": details})


def header_lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Header fields as the HTTP server writes them."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")


def log_failure(error: MLBuffetError, request_id: str, route: str, **more: object) -> None:
    """The one record of a request that failed."""
    level = logging.ERROR if error.code == MLBuffetError.code else logging.INFO
    fields = {"request_id": request_id, "route": route, "status": error.status, "code": error.code}
    log.log(level, "request failed", extra=fields | {"why": error.message} | more)


def log_gone(route: str, request_id: str, **more: object) -> None:
    """The one record of a request whose client left before its answer."""
    log.info("client left", extra={"request_id": request_id, "route": route, "status": CLIENT_GONE} | more)


def seconds_since_begun() -> float:
    """For how long the present request has been handled, the wait for this thread included."""
    began_at: float = request.environ["mlbuffet.began_at"]
    return time.monotonic() - began_at


def request_id() -> str:
    """The present request's id, given by the HTTP server."""
    found: str = request.environ.get("mlbuffet.request_id", "-")
    return found


def install_errors(app: Flask) -> None:
    """Answer every failure of a route in V1's shape; what nobody foresaw is an INTERNAL without details."""

    def respond(error: MLBuffetError) -> Response:
        log_failure(error, request_id(), route(), seconds=round(seconds_since_begun(), 6))
        g.error_code = error.code
        headers, body = error_answer(error, request_id(), request.path.encode())
        return Response(body, error.status, headers)

    def gone(_: ClientGoneError) -> Response:
        log_gone(route(), request_id(), seconds=round(seconds_since_begun(), 6))
        return Response(status=CLIENT_GONE)

    def unforeseen(error: Exception) -> Response:
        log.error("unforeseen failure", exc_info=error, extra={"request_id": request_id()})
        return respond(MLBuffetError("something failed inside the server; its log has the details"))

    def from_flask(error: HTTPException) -> Response:
        response = respond(_translate(error))
        if error.code == MethodNotAllowedError.status:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))  # type: ignore[attr-defined]
        return response

    app.register_error_handler(ClientGoneError, gone)
    app.register_error_handler(MLBuffetError, respond)
    app.register_error_handler(HTTPException, from_flask)
    app.register_error_handler(Exception, unforeseen)


def _translate(error: HTTPException) -> MLBuffetError:
    """Flask's own refusals in our words."""
    if error.code == NotFoundError.status:
        return NotFoundError("there is nothing at this address; GET /help lists what there is")
    if error.code == MethodNotAllowedError.status:
        return MethodNotAllowedError(f"{request.method} is not taken at this address")
    return BadRequestError(error.description or "the request cannot be understood")


def route() -> str:
    """The present request's route pattern: bounded, unlike its path."""
    return str(request.url_rule) if request.url_rule else "unknown"


def health_routes(is_ready: Callable[[], bool], metrics: Callable[[], bytes]) -> Blueprint:
    """The routes that every service has: live, ready and metrics."""
    routes = Blueprint("health", __name__)

    @routes.get("/health/live")
    def live() -> Response:
        """Tell whether the process runs.

        curl http://127.0.0.1:8002/health/live
        """
        return answer({"live": True})

    @routes.get("/health/ready")
    def ready() -> Response:
        """Tell whether predictions can be answered now.

        curl http://127.0.0.1:8002/health/ready
        """
        if not is_ready():
            # No record: a prober asks every second, and what keeps it from being ready has one of its own.
            headers, body = error_answer(UnavailableError("not ready"), request_id(), b"")
            return Response(body, UnavailableError.status, headers)
        return answer({"ready": True})

    @routes.get("/metrics")
    def metrics_page() -> Response:
        """Show the metrics in Prometheus' text format.

        curl http://127.0.0.1:8002/metrics
        """
        return Response(metrics(), content_type=CONTENT_TYPE_LATEST)

    return routes


class NoLane:
    """For a service whose every request is Flask's."""

    def wants(self, request: Request) -> bool:  # noqa: ARG002 - the lane's signature
        """Take nothing."""
        return False

    def room(self, request: Request) -> Room | None:  # noqa: ARG002 - the lane's signature
        """Have none."""
        return None

    def handle(self, request: Request, connection: HttpConnection) -> None:
        """Never called: nothing is taken."""
        raise NotImplementedError

    def gone(self, request: Request) -> None:
        """Never called either."""
        raise NotImplementedError

    def render_error(self, request: Request, error: MLBuffetError) -> tuple[bytes, bytes]:
        """An error for a request that reached no route."""
        log_failure(error, request.request_id, "refused")
        headers, body = error_answer(error, request.request_id, request.path)
        return header_lines(headers), body


def make_app(name: str, *blueprints: Any) -> Flask:  # noqa: ANN401 - Blueprint subclasses
    """A Flask application without what we do not use: static files, templates, sessions."""
    app = Flask(name, static_folder=None)
    app.url_map.strict_slashes = True
    app.url_map.merge_slashes = False
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
    install_errors(app)
    app.before_request(_begin)
    app.after_request(_sort_allow)
    app.teardown_request(_end)
    return app


def _begin() -> None:
    """Have every record that this thread makes carry the request's id, and its trace."""
    trace = read_traceparent(request.headers.get(FIELD, "").encode("latin-1"))
    current_context.set(context_line(request_id(), trace))


def _end(_: BaseException | None) -> None:
    current_context.set(b"")


def _sort_allow(response: Response) -> Response:
    """Flask answers OPTIONS from a set, in another order in each process."""
    if request.method == "OPTIONS" and response.allow:
        response.headers["Allow"] = ", ".join(sorted(response.allow))
    return response
