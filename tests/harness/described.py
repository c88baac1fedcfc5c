"""Holds answers against an OpenAPI document: is this status described, this code, and is the body of its schema."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator

METHODS = frozenset({"get", "post", "put", "delete"})


class Document:
    """A document, and which of its operations has answered with success."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data
        self.succeeded: set[str] = set()
        # What is written out goes before a parameter, as it does in Flask.
        self._paths = [
            (re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))), item)
            for path, item in sorted(data["paths"].items(), key=lambda pair: (pair[0].count("{"), -len(pair[0])))
        ]

    def operations(self) -> Iterator[dict[str, Any]]:
        """Every operation."""
        for item in self.data["paths"].values():
            yield from (operation for method, operation in item.items() if method in METHODS)

    def find(self, method: str, path: str) -> dict[str, Any] | None:
        """The operation of a request; None where there is none."""
        found = (item for pattern, item in self._paths if pattern.fullmatch(unquote(path, errors="replace")))
        operations: Mapping[str, dict[str, Any]] = next(found, {})
        return operations.get(method.lower())

    def check(self, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Hold one answer against the document; what has no operation says so."""
        operation = self.find(method, path)
        if operation is None:
            assert status in {400, 404, 405, 414, 421, 431, 501}, (method, path, status)
            return
        name = operation["operationId"]
        assert str(status) in operation["responses"], (name, status, body[:200])
        response = operation["responses"][str(status)]
        media_type = headers["Content-Type"].partition(";")[0]
        if "content" in response:
            assert media_type in response["content"], (name, status, media_type)
            if media_type == "application/json":
                self.validate(json.loads(body), response["content"][media_type]["schema"])
        for field, item in response.get("headers", {}).items():
            described = self._resolved(item)
            assert field in headers or not described.get("required"), (name, field)
            if field in headers:
                self.validate(headers[field], described["schema"])
        if status < 300:
            self.succeeded.add(name)

    def validate(self, value: object, schema: Mapping[str, Any]) -> None:
        """Hold a value against a schema that may refer to the document's components.

        Raises:
            ValidationError: it does not fit.
        """
        whole = {**schema, "components": self.data["components"]}
        Draft202012Validator(whole).validate(value)

    def _resolved(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        name = item.get("$ref")
        found: Mapping[str, Any] = self.data["components"]["headers"][name.rpartition("/")[2]] if name else item
        return found

    def codes(self) -> set[str]:
        """Every code that some operation may answer."""
        return {code for operation in self.operations() for code in _codes(operation["responses"])}


def _codes(data: object) -> Iterator[str]:
    """What stands in the enumerations of the fields `code` and X-Error-Code."""
    if not isinstance(data, dict):
        for item in data if isinstance(data, list) else ():
            yield from _codes(item)
        return
    for name, value in data.items():
        if name == "code":
            yield from value.get("enum", ())
        elif name == "X-Error-Code":
            yield from value["schema"]["enum"]
        else:
            yield from _codes(value)
