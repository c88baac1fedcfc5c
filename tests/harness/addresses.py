"""Requests in which an address stands wherever a client can put a word: nothing of it may ever be asked."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import requests

_BODY = b'{"values": [2, 5, 1, 4]}'


def asked_with(url: str, key: Mapping[str, str], address: str) -> Iterator[requests.Response]:
    """What is answered to requests of an administrator's with an address in every field that there is."""
    quoted = quote(address, safe="")
    iris = f"{url}/api/v1/models/iris.onnx"
    headers = ["X-Request-Id", "Idempotency-Key", "X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Referer"]
    headers += ["X-Original-URL", "Location", "Callback-Url", "If-Match", "User-Agent", "Origin", "Host"]

    def send(method: str, path: str, **options: Any) -> requests.Response:  # noqa: ANN401 - as requests takes them
        more = options.pop("headers", {})
        return requests.request(method, path, headers={**key, **more}, timeout=20, allow_redirects=False, **options)

    for name in headers:
        yield send("POST", f"{iris}/prediction", data=_BODY, headers={name: address})
    yield send("PUT", f"{url}/api/v1/models/{quoted}", data=b"no model")
    yield send("PUT", f"{url}/api/v1/models/x", files={"path": (address, address.encode())})
    yield send("PUT", f"{url}/api/v1/models/x", files={"path": b"no model"}, data={"image": address})
    yield send("POST", iris, json={"model_description": address, "image": {"labels": [address]}})
    yield send("POST", iris, json={"model_description": "", "image": {}})
    yield send("POST", iris, json={"url": address})
    yield send("POST", f"{iris}/prediction", json={"values": address, "outputs": [address]})
    yield send("POST", f"{iris}/prediction", json={"url": address, "values": [1]})
    yield send("POST", f"{iris}/prediction", files={"file": address.encode()})
    yield send("GET", f"{url}/docs?model={quoted}&url={quoted}")
    yield send("GET", f"{url}/api/v1/models?after={quoted}")
    yield send("POST", f"{url}/v2/repository/models/{quoted}/load", json={"parameters": {"source": address}})
    yield send("POST", f"{url}/v2/models/iris.onnx/infer", json={"id": address, "inputs": [{"name": address}]})
    yield send("POST", f"{url}/api/test/sendtomodelhost", json={"data": [address]})
    made = send("POST", f"{url}/api/v1/keys", json={"name": address, "scopes": ["predict"]})
    yield made
    assert made.json()["name"] == address
    yield send("DELETE", f"{url}/api/v1/keys/{made.json()['id']}")
    yield send("POST", f"{url}/api/v1/keys", json={"name": "x", "scopes": [address], "expires": address})
