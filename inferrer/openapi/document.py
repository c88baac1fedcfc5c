"""The document of all routes: what Flask routes, in its own order, described by docstrings and operations."""

import inspect
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from flask import Flask
from werkzeug.routing import Rule

from inferrer.openapi import schemas, training, v1, v2
from inferrer.openapi.operation import Json, Operation
from inferrer.openapi.schemas import SECURITY

OPERATIONS: Mapping[str, Operation] = {
    **v1.MODELS,
    **training.TRAINING,
    **v1.KEYS,
    **v1.SERVICE,
    **v2.KSERVE,
    **v2.V2,
}
COMPONENTS: Json = {
    "schemas": {**schemas.SCHEMAS, **training.SCHEMAS, **v2.SCHEMAS},
    "parameters": schemas.PARAMETERS,
    "headers": schemas.HEADERS,
    "securitySchemes": schemas.SECURITY,
}
_UNDESCRIBED = frozenset({"HEAD", "OPTIONS"})  # Flask adds them to every route
_CONVERTER = re.compile(r"<(?:\w+:)?(\w+)>")
_PROTOCOL = re.compile(r"/(v[12])(?:/|$)")
_ABOUT = """\
Every JSON answer under `/api` begins with `http_status`; an error has `error` beside it, whose `code` is stable. Under
`/v1` and `/v2` an error is `{"error": "…"}`. `GET /v2/models/{name}/openapi.json` describes one model by its signature.
Where API keys are made, all but health and these pages takes one, with the scope that the answer 403 names.
What no route takes is 404, a method that it does not take is 405 with `Allow`, one that HTTP does not have is 501.
"""


def describe(app: Flask) -> dict[str, Any]:
    """The document.

    Raises:
        KeyError: a route is not described.
    """
    paths: dict[str, dict[str, Any]] = {}
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        item = paths.setdefault(_CONVERTER.sub(r"{\1}", rule.rule), {})
        for method in sorted((rule.methods or set()) - _UNDESCRIBED):
            item[method.lower()] = _operation(app, rule, method)
    return skeleton("MLBuffet", _ABOUT) | {"paths": paths, "components": COMPONENTS}


def skeleton(title: str, about: str) -> dict[str, Any]:
    """What every document begins with."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": version("mlbuffet"),
            "description": about,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, *({name: []} for name in SECURITY)],  # a server without keys asks for none
    }


def _operation(app: Flask, rule: Rule, method: str) -> dict[str, Any]:
    operation = OPERATIONS[_name_of(rule)]
    summary, *text = inspect.cleandoc(app.view_functions[rule.endpoint].__doc__ or "").splitlines()
    described: dict[str, Any] = {
        "operationId": _operation_id(rule, method),
        "tags": [operation.tag],
        "summary": summary,
        "description": "\n".join(_prose(text)).strip("\n"),
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in _parameters(rule, operation)],
        "responses": operation.responses(),
    }
    if operation.body is not None:
        described["requestBody"] = operation.body
        described["deprecated"] = method == "GET"  # HTTP gives its body no meaning; old clients do
    return described


def _name_of(rule: Rule) -> str:
    """What a route's operation is called: by its view function, and by the protocol where that is not ours."""
    found = _PROTOCOL.match(rule.rule)
    return (f"{found[1]}_" if found else "") + str(rule.endpoint).rpartition(".")[2]


def _operation_id(rule: Rule, method: str) -> str:
    """One name for each path and method, for generated clients."""
    several = len((rule.methods or set()) - _UNDESCRIBED) > 1
    of_version = "_version" if "version" in rule.arguments else ""
    slash = "_slash" if len(rule.rule) > 1 and rule.rule.endswith("/") else ""
    return _name_of(rule) + of_version + slash + (f"_{method.lower()}" if several else "")


def _parameters(rule: Rule, operation: Operation) -> Iterator[str]:
    """Components of the path's parameters, then of the others."""
    known = {
        "name": operation.named,
        "version": "VersionNumber",
        "asset": "Asset",
        "key_id": "KeyId",
        "run_id": "RunId",
    }
    yield from (known[name] for name in _CONVERTER.findall(rule.rule))
    yield from operation.parameters


def _prose(lines: list[str]) -> Iterator[str]:
    """A docstring's text; its curl lines as code."""
    for line in lines:
        yield f"    {line}" if line.startswith("curl ") else line
