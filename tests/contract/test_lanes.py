"""The fast lane changes nothing but speed: every prediction case is answered alike with the lane and without it."""

import gzip
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness.onnx_models import identity, two_inputs
from tests.harness.platform import RunningPlatform
from tests.harness.raw_http import Answer, chunked, exchange, message
from tests.harness.zoo import DATATYPES, quotient, zoo_platform

GOOD = b'{"values": [2, 5, 1, 4]}'
MODELS = "/api/v1/models/"
IRIS = f"{MODELS}iris.onnx/prediction"
JSON = {"Content-Type": "application/json"}
INFER = "/v2/models/iris.onnx/infer"
TENSORS = b'{"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [2, 5, 1, 4]}]}'
LONG = TENSORS.replace(b"[1, 4]", b"[4000, 4]").replace(b"2, 5, 1, 4", b", ".join([b"0.1, 0.2, 0.3, 0.4"] * 4000))
LONG_TENSORS = LONG.replace(b"{", b'{"parameters": {"binary_data_output": true}, ', 1)
LENGTH = "Inference-Header-Content-Length"
OCTETS = "application/octet-stream"


class Case(NamedTuple):
    """A request, and what its answer is to be like on both platforms."""

    name: str
    request: bytes
    method: str = "POST"


def predict(name: str, path: str = IRIS, headers: object = None, body: bytes = GOOD, version: str = "1.1") -> Case:
    fields = JSON if headers is None else headers
    return Case(name, message("POST", path, fields, body, version))  # type: ignore[arg-type]


def bodies() -> Iterator[Case]:
    """What can stand in a body, for each of several models."""
    texts = [
        '{"values": [[2, 5, 1, 4]]}', '{"values": [[2, 5, 1, 4], [6, 3, 5, 2]]}', '{"values": []}',
        '{"values": [[]]}', '{"values": [1, 2]}', '{"values": [1, 2, 3, 4, 5]}', '{"values": [[[1, 2, 3, 4]]]}',
        '{"values": [[1], [1, 2]]}', '{"values": [1.5, -0.0, 1e3, 2]}', '{"values": [1e400, 0, 0, 0]}',
        '{"values": [1e39, 0, 0, 0]}', '{"values": [NaN, 0, 0, 0]}', '{"values": [Infinity, 0]}',
        '{"values": [-Infinity, 0]}', '{"values": [null, 0, 0, 0]}', '{"values": ["2", 5, 1, 4]}',
        '{"values": [true, 5, 1, 4]}', '{"values": [true, false]}',
        '{"values": ["a", "b", "\\u0000", "\\ud83d\\ude00"]}', '{"values": ["\\ud800"]}',
        '{"values": {"input": [2, 5, 1, 4]}}', '{"values": {"input": [[2, 5, 1, 4]], "more": 1}}', '{"values": {}}',
        '{"values": {"a": [1, 2], "b": [3, 4]}}', '{"values": {"a": [1, 2]}}', '{"values": {"b": [1, 2], "a": "x"}}',
        '{"values": [2, 5, 1, 4], "outputs": "all"}', '{"values": [2, 5, 1, 4], "outputs": ["label"]}',
        '{"values": [2, 5, 1, 4], "outputs": ["probabilities", "label"]}', '{"values": [2, 5, 1, 4], "outputs": []}',
        '{"values": [2, 5, 1, 4], "outputs": ["label", "label"]}', '{"values": [2, 5, 1, 4], "outputs": ["none"]}',
        '{"values": [2, 5, 1, 4], "outputs": 1}', '{"values": [2, 5, 1, 4], "outputs": null}',
        '{"values": [2, 5, 1, 4], "other": 1}', '{"values": 5}', '{"values": null}', '{"values": "text"}',
        '{"value": [1]}', "{}", "[]", "[2, 5, 1, 4]", "5", "null", "true", '"text"', "", " ", "{",
        '{"values": [1, 2}', '{"values": [2, 5, 1, 4]} trailing', '{"values": [2, 5, 1, 4]', "{'values': [1]}",
        "values=1", '{"values": [2, 5, 1, 4], "values": [1]}', "[" * 2000, '{"a":' * 2000,
        '{"values": ' + "[" * 120 + "]" * 120 + "}", '{"values": [[0, 0], [1, 0]]}', '{"values": [[1, 2]]}',
        '{"values": [9223372036854775808, -1, 0, 0]}', '{"values": [' + "1" * 400 + ", 0, 0, 0]}",
        '{"values": [0x10]}', '{"values": [01]}', '{"values": [1,]}', '{"values":\n[2,\t5, 1,\r\n4]}',
        '{"values": ["=cmd()", "{{7*7}}", "${jndi:ldap://x}", "\' OR 1=1"]}',
        '{"values": ["<script>alert(1)</script>", "</script>", "\\u2028", "\\r\\nSet-Cookie: a=b"]}',
    ]  # fmt: skip
    for model in ("iris.onnx", "strings", "pair", "quotient", "int64"):
        for number, text in enumerate(texts):
            yield predict(f"body-{model}-{number}", f"{MODELS}{model}/prediction", body=text.encode())
    for encoding in ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1"):
        yield predict(f"body-{encoding}", body='{"values": ["é"]}'.encode(encoding))
    for number, raw in enumerate(
        [b"\xff", b'{"values": ["\xed\xa0\x80"]}', b'{"values": ["\xc3"]}', b"\0", b"\0" * 4096]
    ):
        yield predict(f"body-raw-{number}", body=raw)
    yield predict("body-large", body=json.dumps({"values": [[2, 5, 1, 4]] * 5000}).encode())


def header_fields() -> Iterator[Case]:
    """Header fields that say how the request is to be taken."""
    times = [
        "5001", "5000", "3600000", "3600001", "0", "-1", "+5", "1.5", "abc", "", " ", "1e3", "05000", "9999999",
        "99999999", "5000 ", "1,2", "\u00b2", "\xff", "0x10", "1_000", "100ms",
    ]  # fmt: skip
    for number, value in enumerate(times):
        yield predict(f"timeout-{number}-{value}", headers=JSON | {"X-Request-Timeout-Ms": value})
    for name in (
        "x-request-timeout-ms",
        "X-REQUEST-TIMEOUT-MS",
        "X_Request_Timeout_Ms",
        "X-Request-Timeout",
        "Timeout",
    ):
        yield predict(f"timeout-name-{name}", headers=JSON | {name: "zero"})
    for number, value in enumerate(
        ("identity", "Identity", "gzip", "br", "deflate", "gzip, gzip", "", " identity ", "x", "\xe9")
    ):
        yield predict(f"encoding-{number}-{value}", headers=JSON | {"Content-Encoding": value})
    types = [
        "application/json", "application/json; charset=utf-8", "application/json;charset=latin-1", "APPLICATION/JSON",
        " application/json", "text/json", "", "application/x-www-form-urlencoded", "application/xml", "text/plain",
        "json", "image/png", "image/jpeg", "image/gif", "image/svg+xml", "multipart/form-data",
        "multipart/form-data; boundary=x", "multipart/mixed", "application/octet-stream",
        "application/json, text/plain", ";", "*/*", "\xe9/json", "application/vnd.api+json", "application/jsonx",
        "application/json/x", "x" * 300,
    ]  # fmt: skip
    for number, value in enumerate(types):
        yield predict(f"type-{number}-{value[:40]}", headers={"Content-Type": value})
    yield predict("type-none", headers={})
    for value in ("abc", "a" * 64, "a" * 65, "a b", "", "a\tb", "é", "../x", "A-Z_0.9:x", "<b>", "a,b"):
        yield predict(f"id-{len(value)}-{value[:20]}", headers=JSON | {"X-Request-Id": value})
        yield predict(f"id-{len(value)}-{value[:20]}-failed", headers=JSON | {"X-Request-Id": value}, body=b"{")
    pairs = {
        "X-Request-Timeout-Ms": ("100000", "200000"),
        "Content-Type": ("application/json", "application/json"),
        "Content-Encoding": ("identity", "identity"),
        "X-Request-Id": ("first", "second"),
    }
    for name, values in pairs.items():
        for number, (one, two) in enumerate((values, values[::-1], (values[0], "odd"), ("odd", values[0]))):
            twice = [(name, one), (name.lower(), two)]
            rest = [] if name == "Content-Type" else list(JSON.items())
            yield predict(f"twice-{number}-{name}", headers=rest + twice)
    others = {
        "Accept": "text/html", "Accept-Encoding": "gzip", "Connection": "close", "connection": "keep-alive",
        "Authorization": "Bearer x", "Cookie": "a=b", "Origin": "http://evil.example", "Range": "bytes=0-1",
        "If-None-Match": "*", "Upgrade": "h2c", "X-Forwarded-For": "1.2.3.4", "Transfer-Encoding ": "x",
        "X-HTTP-Method-Override": "DELETE", "Content-MD5": "x", "X-Empty": "",
    }  # fmt: skip
    for name, value in others.items():
        yield predict(f"other-{name}", headers=JSON | {name: value})


def addresses() -> Iterator[Case]:
    """Paths and names, good and odd."""
    names = [
        "iris.onnx", "iris.onnx:1", "iris.onnx:default", "iris.onnx:2", "iris.onnx:0", "iris.onnx:01", "iris.onnx:-1",
        "iris.onnx:", "iris.onnx::1", "iris.onnx:1:1", "iris.onnx:latest", "iris.onnx:999999999",
        "iris.onnx:9999999999", "IRIS.onnx", "none", "none:1", "none.pkl", "iris.onnx.zip", "a" * 64, "a" * 65,
        "a" * 80, "a" * 81, "a" * 200, ".", "..", "...", "a..b", ".iris", "-iris", "_iris", "iris%2Eonnx",
        "iris%2eonnx%3A1", "%69ris.onnx", "iris.onnx%00", "%2e%2e", "%2fetc", "iris%2Fonnx", "iris.onnx%20",
        "%20iris.onnx", "iris+onnx", "iris.onnx%0d%0aSet-Cookie:a=b", "%C3%A9", "%FF", "%ED%A0%80", "\xe9", "\xff",
        "%E2%80%AEiris", "iris.onnx%", "iris.onnx%zz", "~iris", "iris@onnx", "iris.onnx;x=1", "iris,onnx", "'", '"',
        "<b>", "{{7*7}}", "$x", "*", "|", "\\", "default", "download", "information", "prediction", "repository",
        "Default", "nul", "CON", "iris.onnx@abc", "",
    ]  # fmt: skip
    for number, name in enumerate(names):
        yield predict(f"name-{number}-{name[:90]}", f"{MODELS}{name}/prediction")
        yield predict(
            f"name-{number}-{name[:90]}-image", f"{MODELS}{name}/prediction", {"Content-Type": "image/png"}, b"x"
        )
    queries = [
        "?",
        "?x=1",
        "?limit=0",
        "?__debugger__=yes",
        "?%ff",
        "?a=b&a=c",
        "??",
        "?/prediction",
        "#x",
        "?outputs=all",
    ]
    for query in queries:
        yield predict(f"query-{query}", IRIS + query)
    paths = [
        f"{IRIS}/", f"/{IRIS}", IRIS.replace("/api", "//api"), IRIS.replace("v1", "v2"), IRIS.upper(),
        f"{MODELS}prediction", f"{MODELS}/prediction", f"{MODELS}iris.onnx/Prediction",
        f"{MODELS}iris.onnx//prediction", "/api/v1/models", f"{MODELS}iris.onnx/./prediction",
        f"{MODELS}x/../iris.onnx/prediction", f"{MODELS}iris.onnx/prediction%20", f"{MODELS}iris.onnx/%70rediction",
        "/%61pi/v1/models/iris.onnx/prediction", f"{MODELS}iris.onnx/prediction/x", f"{MODELS}iris.onnx/explain",
        "/prediction", "*", "http://127.0.0.1" + IRIS, "x" + IRIS, f"{MODELS}a/b/prediction",
    ]  # fmt: skip
    for number, path in enumerate(paths):
        yield predict(f"path-{number}-{path}", path)


def methods() -> Iterator[Case]:
    """Every method, with a body and without."""
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO", "get", "PROPFIND", "QUERY"):
        yield Case(f"method-{method}", message(method, IRIS, JSON, GOOD), method)
        yield Case(f"method-{method}-bare", message(method, IRIS), method)
        yield Case(f"method-{method}-unknown", message(method, f"{MODELS}none/prediction", JSON, GOOD), method)


def framing() -> Iterator[Case]:
    """How the body comes."""
    te = JSON | {"Transfer-Encoding": "chunked"}
    middle = len(GOOD) // 2
    bodies = {
        "one": chunked(GOOD),
        "two": chunked(GOOD[:middle], GOOD[middle:]),
        "bytes": chunked(*(GOOD[at : at + 1] for at in range(len(GOOD)))),
        "empty": chunked(),
        "extension": chunked(GOOD, extension=b";name=value"),
        "trailer": chunked(GOOD, trailer=b"X-Trailer: 1\r\n"),
        "bad size": b"xyz\r\n" + GOOD,
        "negative": b"-1\r\n" + GOOD,
        "not json": chunked(b"{"),
    }
    for name, body in bodies.items():
        yield predict(f"chunked-{name}", headers=te, body=body)
    yield predict("chunked-and-length", headers=te | {"Content-Length": str(len(GOOD))}, body=chunked(GOOD))
    yield predict("te-identity", headers=JSON | {"Transfer-Encoding": "identity"})
    yield predict("te-xchunked", headers=JSON | {"Transfer-Encoding": "xchunked"}, body=chunked(GOOD))
    for value in ("+24", "-1", "24, 24", "24x", "", "0x18", "9" * 30, "2000000000"):
        yield predict(f"length-{value}", headers=JSON | {"Content-Length": value})
    yield predict("length-twice", headers=[*JSON.items(), ("Content-Length", "24"), ("Content-Length", "24")])
    yield predict("1.0", version="1.0")
    yield predict("1.0-kept", headers=JSON | {"Connection": "keep-alive"}, version="1.0")
    yield predict("1.0-failed", body=b"{", version="1.0")
    for version in ("0.9", "2.0", "1.2", "x"):
        yield predict(f"version-{version}", version=version)
    yield predict("expect", headers=JSON | {"Expect": "100-continue"})
    yield predict("expect-other", headers=JSON | {"Expect": "x"})
    yield Case("no-host", message("POST", IRIS, JSON, GOOD).replace(b"Host: 127.0.0.1\r\n", b""))
    yield Case("bare-lf", message("POST", IRIS, JSON, GOOD).replace(b"\r\n", b"\n"))
    yield Case("folded", message("POST", IRIS, JSON | {"X-Fold": "a\r\n b"}, GOOD))
    yield predict("many-headers", headers=JSON | {f"X-{number}": "x" for number in range(110)})
    yield predict("long-header", headers=JSON | {"X-Long": "x" * 9000})
    yield predict("long-line", f"{IRIS}?{'x' * 9000}")


def precedence() -> Iterator[Case]:
    """Several things wrong at once: the same one is told."""
    for number in range(1, 16):
        fields = dict(JSON)
        if number & 1:
            fields["X-Request-Timeout-Ms"] = "never"
        if number & 2:
            fields["Content-Encoding"] = "gzip"
        path = f"{MODELS}none/prediction" if number & 4 else IRIS
        yield predict(f"several-{number}", path, fields, b"{" if number & 8 else GOOD)


def infer(
    name: str, path: str = INFER, headers: object = None, body: bytes | str = TENSORS, method: str = "POST"
) -> Case:
    """A V2 request; JSON unless its header fields say otherwise."""
    data = body.encode() if isinstance(body, str) else body
    return Case(f"v2-{name}", message(method, path, JSON if headers is None else headers, data), method)  # type: ignore[arg-type]


def tensor(**changes: object) -> dict[str, object]:
    return {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [2, 5, 1, 4]} | changes


def v2_bodies() -> Iterator[Case]:
    """What can stand in a V2 body, for each of several models."""
    good = tensor()
    requests: list[object] = [
        {"inputs": [good]}, {"inputs": [tensor(data=[[2, 5, 1, 4]])]}, {"inputs": [tensor(shape=[4])]},
        {"inputs": [tensor(shape=[16, 2**60 + 2])]}, {"inputs": [tensor(shape=[2, -5])]},
        {"inputs": [tensor(shape=[])]}, {"inputs": [tensor(shape=[0])]}, {"inputs": [tensor(shape=[0, 4], data=[])]},
        {"inputs": [tensor(shape=[1.0, 4])]},
        {"inputs": [tensor(shape=[1] * 10_000)]}, {"inputs": [tensor(shape="1,4")]}, {"inputs": [tensor(shape=None)]},
        {"inputs": [tensor(data=[1, 2, 3])]}, {"inputs": [tensor(data=[[1, 2], [3]])]}, {"inputs": [tensor(data="x")]},
        {"inputs": [tensor(data=None)]}, {"inputs": [tensor(data=["a", "b", "c", "d"])]},
        {"inputs": [tensor(data=[True, 1, 2, 3])]}, {"inputs": [tensor(data=[1, 2, 3, 1e39])]},
        {"inputs": [tensor(datatype="FP64")]}, {"inputs": [tensor(datatype="fp32")]},
        {"inputs": [tensor(datatype=None)]},
        {"inputs": [tensor(name="other")]}, {"inputs": [tensor(name=None)]}, {"inputs": [good, good]}, {"inputs": []},
        {"inputs": {}}, {"inputs": None}, {"inputs": [1]}, {"inputs": [{}]}, {}, [], 5, None, "text", {"input": [good]},
        {"inputs": [good], "outputs": []}, {"inputs": [good], "outputs": [{"name": "label"}]},
        {"inputs": [good], "outputs": [{"name": "label"}, {"name": "label"}]},
        {"inputs": [good], "outputs": [{"name": "none"}]}, {"inputs": [good], "outputs": [1]},
        {"inputs": [good], "outputs": [{"name": "label", "parameters": {"binary_data": True}}]},
        {"inputs": [good], "outputs": [{"name": "label", "parameters": {"binary_data": "yes"}}]},
        {"inputs": [good], "outputs": [{"name": "label", "parameters": {"classification": 2}}]},
        {"inputs": [good], "parameters": {"binary_data_output": True}}, {"inputs": [good], "parameters": {"x": 1}},
        {"inputs": [good], "parameters": []}, {"inputs": [good], "id": "mine"}, {"inputs": [good], "id": 5},
        {"inputs": [good], "id": ""}, {"inputs": [good], "more": 1}, {"inputs": [tensor(parameters={"x": 1})]},
        {"inputs": [tensor(parameters={"binary_data_size": 16})]},
        {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "BYTES", "data": ["a", "\0", "\U0001f600", ""]}]},
        {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "INT64", "data": [2**63 - 1, -(2**63), 0, 1]}]},
        {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "INT64", "data": [2**63, 0, 0, 0]}]},
        {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [0, 0, 1, 0]}]},
        {"inputs": [{"name": name, "shape": [1, 2], "datatype": "FP32", "data": [1, 2]} for name in ("a", "b")]},
    ]  # fmt: skip
    texts = [json.dumps(request) for request in requests]
    texts += [
        "", " ", "{", '{"inputs": [NaN]}', '{"inputs": [], "inputs": []}', '{"a":' * 2000, "[" * 2000, "\ufeff{}",
        TENSORS.decode().replace("[2, 5", "[1e400, 5"), TENSORS.decode().replace("[2, 5", "[0x10, 5"),
        TENSORS.decode().replace("[2, 5", "[" + "9" * 400 + ", 5"), TENSORS.decode() + "x",
    ]  # fmt: skip
    for model in ("iris.onnx", "strings", "pair", "quotient", "int64"):
        for number, text in enumerate(texts):
            yield infer(f"body-{model}-{number}", f"/v2/models/{model}/infer", body=text)
    yield infer("body-not-utf-8", body=b'{"inputs": "\xff"}')
    yield infer("body-large", body=LONG)


def v2_tensors() -> Iterator[Case]:
    """JSON with bytes behind it, and header lengths that are right and wrong."""
    floats = struct.pack("<4f", 2, 5, 1, 4)
    sized = json.dumps({"inputs": [tensor(parameters={"binary_data_size": 16}) | {"data": None}]}).replace(
        ', "data": null', ""
    )
    both = json.dumps(json.loads(sized) | {"parameters": {"binary_data_output": True}})
    for name, text in (("in", sized), ("both", both), ("json", TENSORS.decode()), ("wrong", "{")):
        body = text.encode() + floats
        lengths = [
            len(text), len(text) - 1, len(text) + 1, len(body), len(body) + 1, 0, -1, f"+{len(text)}", f"0{len(text)}",
            "", " ", "abc", "1.5", "\xb2", "9" * 9, "9" * 10, "9" * 300, f"{len(text)},{len(text)}", f"{len(text)} ",
        ]  # fmt: skip
        for number, length in enumerate(lengths):
            yield infer(f"length-{name}-{number}", headers=JSON | {LENGTH: str(length)}, body=body)
            yield infer(
                f"length-{name}-{number}-type", headers={"Content-Type": OCTETS, LENGTH: str(length)}, body=body
            )
        yield infer(f"length-{name}-none", headers={"Content-Type": OCTETS}, body=body)
        yield infer(f"length-{name}-twice", headers=[(LENGTH, str(len(text))), (LENGTH.lower(), "0")], body=body)
        yield infer(f"length-{name}-score", headers={LENGTH.replace("-", "_"): "0"}, body=body)
        te = JSON | {"Transfer-Encoding": "chunked", LENGTH: str(len(text))}
        yield infer(f"length-{name}-chunked", headers=te, body=chunked(body[:9], body[9:]))
    for size in (0, 1, 15, 16, 17, 32, 4096):
        yield infer(f"bare-{size}", headers={LENGTH: "0"}, body=bytes(size))
        yield infer(f"bare-{size}-pair", "/v2/models/pair/infer", {LENGTH: "0"}, bytes(size))
        yield infer(f"bare-{size}-strings", "/v2/models/strings/infer", {LENGTH: "0"}, bytes(size))


def v2_heads() -> Iterator[Case]:
    """Addresses, methods and header fields of V2."""
    names = [
        "iris.onnx", "iris.onnx/versions/1", "iris.onnx/versions/2", "iris.onnx/versions/0", "iris.onnx/versions/01",
        "iris.onnx/versions/x", "iris.onnx/versions/", "iris.onnx/versions", "iris.onnx/versions/default",
        "iris.onnx/versions/1/versions/1", "iris.onnx/versions/999999999", "iris.onnx/versions/9999999999",
        "iris.onnx/versions/%31", "iris.onnx:1", "iris.onnx:1/versions/1", "iris.onnx:x", "none", "none/versions/1",
        "none.pkl", "stats", "a" * 81, "..", "%2e%2e", "iris%2Eonnx", "a b", "\xe9", "", "/", "iris.onnx/", "<b>", "*",
    ]  # fmt: skip
    for number, name in enumerate(names):
        yield infer(f"name-{number}-{name[:40]}", f"/v2/models/{name}/infer")
    for number, path in enumerate((f"{INFER}/", f"{INFER}?x=1", INFER.upper(), f"/v2{INFER}", "/v2/models/infer")):
        yield infer(f"path-{number}", path)
    for method in ("GET", "HEAD", "PUT", "OPTIONS", "TRACE", "QUERY"):
        yield infer(f"method-{method}", method=method)
    for number, value in enumerate(
        ("", OCTETS, f"{OCTETS};x=y", "application/xml", "image/png", "multipart/form-data; boundary=x", "\xe9", "json")
    ):
        yield infer(f"type-{number}", headers={"Content-Type": value})
    yield infer("type-none", headers={})
    for value in ("5000", "0", "-1", "", "abc", "3600001", "1,2"):
        yield infer(f"timeout-{value}", headers=JSON | {"X-Request-Timeout-Ms": value})
    for value in ("identity", "gzip", "deflate", "br", "gzip, gzip", ""):
        yield infer(f"encoding-{value}", headers=JSON | {"Content-Encoding": value})
        yield infer(f"encoding-{value}-right", headers=JSON | {"Content-Encoding": value}, body=gzip.compress(TENSORS))
    for number in range(1, 16):
        fields = {"Content-Type": "text/x" if number & 1 else "", **({LENGTH: "x"} if number & 2 else {})}
        path = "/v2/models/none/infer" if number & 4 else INFER
        yield infer(f"several-{number}", path, fields | ({"X-Request-Timeout-Ms": "x"} if number & 8 else {}), b"{")


def codings() -> Iterator[Case]:
    """Long answers, and short ones, for clients that take them compressed."""
    values = b'{"values": ' + json.dumps([[0.1, 0.2, 0.3, 0.4]] * 5000).encode() + b', "outputs": "all"}'
    accepted = (
        "gzip", "deflate", "gzip, deflate, br", "identity", "br", "*", "*;q=0", "gzip;q=0", "gzip;q=0.5, deflate", "",
        "x-gzip", "gzip;q=x", "\xe9", "identity, gzip;q=0.2", "GZIP", ",,",
    )  # fmt: skip
    for number, value in enumerate(accepted):
        fields = JSON | {"Accept-Encoding": value}
        yield predict(f"accept-{number}", headers=fields, body=values)
        yield predict(f"accept-{number}-short", headers=fields)
        yield infer(f"accept-{number}", headers=fields, body=LONG)
        yield infer(f"accept-{number}-tensors", headers=fields, body=LONG_TENSORS)


CASES = [*bodies(), *header_fields(), *addresses(), *methods(), *framing(), *precedence()]
CASES += [*v2_bodies(), *v2_tensors(), *v2_heads(), *codings()]


@pytest.fixture(scope="module")
def platforms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningPlatform, RunningPlatform]]:
    """The same models with the lane and without it."""
    models = {
        "strings": identity(DATATYPES["BYTES"], ["N", 4]),
        "int64": identity(DATATYPES["INT64"], ["N", 4]),
        "pair": two_inputs(),
        "quotient": quotient(),
    }
    options = {"modelhosts": 1, "workers": 1}
    off = options | {"environment": {"INFERRER_LANE": "off"}}
    with (
        zoo_platform(tmp_path_factory.mktemp("lane"), models, **options) as fast,
        zoo_platform(tmp_path_factory.mktemp("flask"), models, **off) as plain,
    ):
        yield fast, plain


def masked(case: Case, answer: Answer) -> tuple[object, ...]:
    """An answer without what differs from one request to the next."""
    given = re.search(rb"\r\nX-Request-Id: ([A-Za-z0-9._:-]{1,64})\r\n", case.request)
    request_id = answer.header("X-Request-Id") or ""
    own = given is None or given[1].decode() != request_id
    body = answer.body.replace(request_id.encode(), b"<id>") if own else answer.body
    headers = {}
    for name, value in answer.headers:
        if name == "Date" or (name == "Content-Length" and (answer.body or case.method == "HEAD")):
            headers[name] = "<varies>"
        else:
            headers[name] = "<id>" if name == "X-Request-Id" and own else value
    assert len(headers) == len(answer.headers)
    return answer.status, headers, body


def test_the_table_is_whole() -> None:
    names = [case.name for case in CASES]
    assert len(names) > 1200
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", CASES, ids=[case.name.encode("unicode_escape").decode() for case in CASES])
def test_both_lanes_answer_alike(case: Case, platforms: tuple[RunningPlatform, RunningPlatform]) -> None:
    fast, plain = (exchange(platform.port, case.request, case.method) for platform in platforms)
    assert masked(case, fast) == masked(case, plain)
    assert fast.status not in {500, 502, 504}
    if case.method != "HEAD" and fast.header("Content-Length"):
        assert int(fast.header("Content-Length") or 0) == len(fast.body)
    if fast.status >= 400 and case.method != "HEAD":
        told = json.loads(fast.body)
        assert list(told) == ["error"] if fast.header("X-Error-Code") else told["http_status"]["code"] == fast.status
    assert fast.header("X-Request-Id")
    assert fast.header("Set-Cookie") is None


def switches(platform: RunningPlatform) -> int:
    """How often the worker's threads other than its event loop have waited for something."""
    (worker,) = platform.children("inferrer")
    states = [path for path in Path(f"/proc/{worker}/task").glob("*/status") if path.parent.name != str(worker)]
    counts = [re.search(r"\nvoluntary_ctxt_switches:\s*(\d+)", path.read_text()) for path in states]
    return sum(int(count[1]) for count in counts if count)


def test_the_two_platforms_really_go_two_ways(platforms: tuple[RunningPlatform, RunningPlatform]) -> None:
    waited = []
    for platform in platforms:
        before = switches(platform)
        for _ in range(50):
            platform.predict("iris.onnx", [2, 5, 1, 4]).raise_for_status()
        waited.append(switches(platform) - before)
    assert waited[0] < 25, "the lane answers on the event loop"
    assert waited[1] >= 50, "Flask answers in threads"
