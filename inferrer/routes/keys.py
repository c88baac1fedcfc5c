"""The routes for API keys: list, make, revoke."""

from dataclasses import fields
from typing import Any

from flask import Blueprint, Response, request

from inferrer.audit import concerns_key
from inferrer.routes.fields import json_object
from inferrer.services import Services
from mlbuffet.chassis.web import answer
from mlbuffet.errors import UnprocessableError
from mlbuffet.keys import Wish

_UNKEPT = {"Cache-Control": "no-store"}
_FIELDS = frozenset(field.name for field in fields(Wish))


def key_routes(services: Services) -> Blueprint:
    """Everything about keys."""
    routes = Blueprint("keys", __name__)

    @routes.get("/api/v1/keys")
    def list_keys() -> Response:
        """List the API keys: what each may do, not the keys themselves.

        curl http://127.0.0.1:8002/api/v1/keys
        """
        return answer({"keys": [key.shown() for key in services.keys.all()]}, headers=_UNKEPT)

    @routes.post("/api/v1/keys")
    def create_key() -> Response:
        """Make an API key, which this one answer shows. From the first one on nobody is answered without a key.

        curl -X POST http://127.0.0.1:8002/api/v1/keys -d '{"name": "me", "scopes": ["admin"]}'
        """
        key, text = services.keys.make(_wish(json_object(request)))
        concerns_key(key.id)
        return answer({**key.shown(), "key": text}, 201, _UNKEPT | {"Location": f"/api/v1/keys/{key.id}"})

    @routes.delete("/api/v1/keys/<key_id>")
    def revoke_key(key_id: str) -> Response:
        """Revoke an API key, which counts no longer.

        curl -X DELETE http://127.0.0.1:8002/api/v1/keys/3f9c01aa52d7
        """
        concerns_key(key_id)
        services.keys.revoke(key_id)
        return answer({"revoked": key_id})

    return routes


def _wish(data: dict[str, Any]) -> Wish:
    if set(data) - _FIELDS:
        msg = f"the fields are {', '.join(sorted(_FIELDS))}; received {min(set(data) - _FIELDS)[:80]!a}"
        raise UnprocessableError(msg)
    return Wish(data.get("name", ""), data.get("scopes", ()), data.get("expires"), data.get("rate"))
