"""The seed's first routes: greeting, help and tests."""

import logging
import re
from collections.abc import Iterator

from flask import Blueprint, Flask, Response, current_app, request

from inferrer.routes.fields import json_object
from inferrer.services import Services
from mlbuffet.chassis.web import answer, request_id
from mlbuffet.errors import UnprocessableError

log = logging.getLogger(__name__)

GREETING = "Greetings from MLBuffet - Inferrer, the Machine Learning model server. For more information, visit /help"
_DOCUMENTED_URL = "http://127.0.0.1:8002"
_HOST = re.compile(r"[A-Za-z0-9.-]{1,255}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_MAX_ECHOES = 10_000
_ECHO_S = 10.0


def greeting_routes(services: Services) -> Blueprint:
    """Greeting, help, and tests of the way to the modelhosts."""
    routes = Blueprint("greeting", __name__)

    @routes.get("/")
    def greet() -> Response:
        """Greet.

        curl http://127.0.0.1:8002/
        """
        status = {"code": 200, "name": "OK", "description": GREETING}
        return answer({"http_status": status, "status": "alive"})

    @routes.get("/help")
    def show_help() -> Response:
        """List every route with a curl line.

        curl http://127.0.0.1:8002/help
        """
        return Response(
            "\n".join(_help_lines(current_app, _own_url())) + "\n", content_type="text/plain; charset=utf-8"
        )

    @routes.get("/api/test")
    def test() -> Response:
        """Answer, to show that the inferrer is reached.

        curl http://127.0.0.1:8002/api/test
        """
        return answer()

    @routes.post("/api/test/sendtomodelhost")
    def send_to_modelhost() -> Response:
        """Send each element of a list to a modelhost through the balancer, and say which served it.

        curl -X POST http://127.0.0.1:8002/api/test/sendtomodelhost -d '{"data": ["a", "b", "c"]}'
        """
        data = json_object(request).get("data")
        if not isinstance(data, list) or len(data) > _MAX_ECHOES:
            msg = f"'data' is a list of at most {_MAX_ECHOES} elements; received {type(data).__name__}"
            raise UnprocessableError(msg)
        dataplane = services.dataplane
        futures = [dataplane.call(None, "echo", _ECHO_S, element=element) for element in data]
        served = [future.result() for future in futures]
        for item in served:
            log.info("echo", extra={"request_id": request_id(), **item})
        return answer({"served": served})

    return routes


def _own_url() -> str:
    """The address that the client asked, so that the lines work as they stand; what is no plain one is not repeated."""
    host = request.headers.get("Host", "")
    return f"http://{host}" if _HOST.fullmatch(host) else _DOCUMENTED_URL


def _help_lines(app: Flask, url: str) -> Iterator[str]:
    """Each route's methods, pattern, summary and curl line, from the routes themselves."""
    yield "MLBuffet - Inferrer. Every route, and how curl asks it:"
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: (rule.rule, sorted(rule.methods or ()))):
        methods = " ".join(sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}))
        lines = [line.strip() for line in (app.view_functions[rule.endpoint].__doc__ or "").splitlines()]
        yield ""
        yield f"{methods} {rule.rule}"
        yield f"    {lines[0]}"
        yield from (f"    {line.replace(_DOCUMENTED_URL, url)}" for line in lines if line.startswith("curl "))
