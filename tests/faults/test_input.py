"""Rows P02, P05, P06, P08, P11, P12, S13: bodies that are wrong, deep, long, large, compressed or cut into crumbs."""

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import requests

from tests.harness.invariants import unharmed, usage
from tests.harness.onnx_models import identity
from tests.harness.platform import ROOT, SAMPLES, RunningPlatform
from tests.harness.raw_http import Answer, chunked, exchange, message
from tests.harness.zoo import DATATYPES, zoo_platform

SOAK = os.environ.get("MLBUFFET_SOAK") == "1"
TICKS = os.sysconf("SC_CLK_TCK")
ECHO = "/api/test/sendtomodelhost"
IRIS = "/api/v1/models/iris.onnx/prediction"
INFER = "/v2/models/iris.onnx/infer"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    models = {
        "strings": identity(DATATYPES["BYTES"], ["N", 3]),
        "long": identity(DATATYPES["INT64"], ["N"]),
        "free": identity(DATATYPES["FP64"], [None, None]),
        "fixed": identity(DATATYPES["FP32"], [2, 3]),
        "deep": identity(DATATYPES["FP64"], [1] * 50),
    }
    with zoo_platform(tmp_path_factory.mktemp("zoo"), models, modelhosts=1, workers=1) as platform:
        yield platform


def post(platform: RunningPlatform, path: str, body: bytes | str, **headers: str) -> requests.Response:
    return requests.post(platform.url + path, data=body, headers=headers, timeout=60)


def predict(platform: RunningPlatform, name: str, values: str) -> requests.Response:
    return post(platform, f"/api/v1/models/{name}/prediction", f'{{"values": {values}}}')


def refused(answer: requests.Response, *codes: str) -> None:
    """The answer is one of these errors, in a message of one short printable line."""
    error = answer.json()["error"]
    assert answer.status_code in {400, 413, 415, 422}, answer.text
    assert error["code"] in codes, error
    assert error["message"].isascii()
    assert error["message"].isprintable()
    assert len(error["message"]) < 1000


def cpu_s(platform: RunningPlatform) -> float:
    """What all processes of the platform have used so far."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in usage(platform))
    return sum(int(field[11]) + int(field[12]) for field in fields) / TICKS


def nested(depth: int, inner: str = "") -> str:
    return "[" * depth + inner + "]" * depth


BILLION = "a0: &a0 [lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 11))
ANCHORS = "".join(f"a{number}: &b{number} 1\n" for number in range(100_000))
YAML = ["!!python/object/apply:os.system ['touch {}']", BILLION, ANCHORS, "values: [2, 5, 1, 4]"]


@pytest.mark.parametrize("kind", ["application/json", "application/yaml"])
@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system ['touch {}']", BILLION, ANCHORS, "values: [2, 5, 1, 4]"]
)
def test_s13_yaml_is_read_nowhere(text: str, kind: str, zoo: RunningPlatform, tmp_path: Path) -> None:
    """There is no YAML input; what is sent all the same is not read, and nothing in it done."""
    canary = tmp_path / "canary"
    with unharmed(zoo):
        before_s = cpu_s(zoo)
        for path in (IRIS, INFER, "/api/v1/models/iris.onnx", "/api/v1/keys"):
            answer = post(zoo, path, text.replace("{}", str(canary)), **{"Content-Type": kind})
            assert answer.status_code in {400, 413, 415}, (path, answer.text)
        assert cpu_s(zoo) - before_s < 4
    assert not canary.exists()


def test_s13_no_service_has_a_reader_of_yaml() -> None:
    for lock in ("inferrer", "modelhost"):
        assert "yaml" not in (ROOT / f"locks/{lock}.txt").read_text(encoding="utf-8").lower()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("iris.onnx", "[]"),
        ("iris.onnx", "[[]]"),
        ("iris.onnx", "[[], []]"),
        ("iris.onnx", "[[[]]]"),
        ("iris.onnx", "[[1, 2, 3, 4], [1, 2, 3]]"),
        ("iris.onnx", "[[1, 2, 3, 4], 5]"),
        ("iris.onnx", "[[[1, 2, 3, 4]]]"),
        ("iris.onnx", "[1, 2, 3, 4, 5]"),
        ("iris.onnx", nested(65, "1")),
        ("iris.onnx", nested(100, "1")),
        ("iris.onnx", nested(120)),
        ("iris.onnx", nested(1000, "1")),
        ("iris.onnx", "[" + "[]," * 100_000 + "[]]"),
        ("free", "[[[]], []]"),
        ("fixed", "[]"),
        ("fixed", "[[1, 2, 3]]"),
        ("fixed", "[[1, 2, 3], [1, 2, 3], [1, 2, 3]]"),
        ("deep", nested(48, "1")),
        ("deep", nested(51, "1")),
        ("strings", '["a"]'),
        ("strings", nested(100, '"a"')),
        ("strings", '[["a", "b", "c"], "abc"]'),
    ],
    ids=range(22),
)
def test_p02_what_has_not_the_inputs_shape_is_told_so(name: str, values: str, zoo: RunningPlatform) -> None:
    refused(predict(zoo, name, values), "INVALID_SHAPE")


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ({"mean": [0] * 10_000}, "INVALID_FIELD"),
        ({"std": [1, 0]}, "INVALID_FIELD"),
        ({"scale": [1]}, "INVALID_FIELD"),
        ({"scale": None}, "INVALID_FIELD"),
        ({"shape": [2**60, 4]}, "INVALID_FIELD"),
        ({"x" * 100_000: 1}, "INVALID_FIELD"),
        ({"labels": ["a"] * 100_001}, "INVALID_FIELD"),
        ({"scale": 2**64}, "INVALID_NUMBER"),
    ],
)
def test_p02_absurd_settings_are_refused(image: object, code: str, zoo: RunningPlatform) -> None:
    refused(post(zoo, "/api/v1/models/iris.onnx", json.dumps({"image": image})), code)


def test_p05_depth_is_bounded_everywhere_and_fifty_levels_are_fine(zoo: RunningPlatform) -> None:
    with unharmed(zoo):
        for body in (b"[" * 100_000, b'{"a":' * 100_000, b'{"values":' + b"[" * 100_000, b'{"values":{"x":' * 50_000):
            for path in (IRIS, ECHO, "/api/v1/models/iris.onnx"):
                refused(post(zoo, path, body), "INVALID_JSON")
        assert predict(zoo, "deep", nested(50, "7")).json()["values"] == json.loads(nested(50, "7"))
        for depth in (50, 90):
            echoed = post(zoo, ECHO, f'{{"data": [{nested(depth)}]}}')
            assert echoed.json()["served"][0]["element"] == json.loads(nested(depth))
        for depth in (120, 1000, 5000):
            refused(post(zoo, ECHO, f'{{"data": [{nested(depth)}]}}'), "INVALID_JSON")
            refused(post(zoo, ECHO, '{"a":' * depth + "1" + "}" * depth), "INVALID_JSON")
            refused(predict(zoo, "iris.onnx", nested(depth)), "INVALID_SHAPE", "INVALID_JSON")
            refused(predict(zoo, "iris.onnx", '{"a":' * depth + "1" + "}" * depth), "UNKNOWN_INPUT", "INVALID_JSON")


@pytest.mark.parametrize(
    "number",
    ["9" * 20, "-" + "9" * 19, "9" * 400, "9" * 4000, "9" * 1_000_000, "1E+9999", "1e400", "0x10", "007", "+1", ".5"],
    ids=range(11),
)
def test_p06_what_is_no_number_is_refused(number: str, zoo: RunningPlatform) -> None:
    for name, values in (("iris.onnx", f"[{number}, 1, 2, 3]"), ("long", f"[{number}]"), ("strings", f"[[{number}]]")):
        refused(predict(zoo, name, values), "INVALID_NUMBER")
    refused(post(zoo, ECHO, f'{{"data": [{number}]}}'), "INVALID_NUMBER")
    refused(post(zoo, "/api/v1/models/iris.onnx/default", f'{{"default": {number}}}'), "INVALID_NUMBER")


def test_p06_the_ends_of_the_range_are_exact_and_minus_zero_is_a_number(zoo: RunningPlatform) -> None:
    for number in (-(2**63), 2**63 - 1, 0):
        assert predict(zoo, "long", f"[{number}]").json()["values"] == [number]
    assert predict(zoo, "long", "[-0]").json()["values"] == [0]
    assert predict(zoo, "free", "[[-0, 0.12345678901234567890]]").json()["values"] == [[0.0, 0.12345678901234568]]


@pytest.mark.parametrize(
    "body",
    [b"\xff", b'{"a": "\xed\xa0\x80"}', b'{"a": "\\ud800"}', b"\xef\xbb\xbf{}", '{"a": 1}'.encode("utf-16"),
     '{"a": 1}'.encode("utf-32-be"), b'{"default": 1, "default": 2}', b'{"a": {"b": 1, "b": 1}}', b'{"a": "\0"}'],
    ids=range(9),
)  # fmt: skip
def test_p07_p08_all_routes_read_json_alike(body: bytes, zoo: RunningPlatform) -> None:
    for path in (IRIS, ECHO, "/api/v1/models/iris.onnx", "/api/v1/models/iris.onnx/default"):
        refused(post(zoo, path, body), *(("INVALID_JSON", "INVALID_FIELD") if path == IRIS else ("INVALID_JSON",)))


def test_p08_a_million_keys_cost_little(zoo: RunningPlatform) -> None:
    count = 1_000_000 if SOAK else 100_000
    keys = ",".join(f'"k{number}":{number}' for number in range(count))
    # As Java hashes strings, all of these are one.
    colliding = ",".join(f'"{"".join(parts)}":0' for parts in islice(product(("Aa", "BB"), repeat=20), count))
    bodies = [
        f'{{"values": {{{keys}}}}}',
        f'{{"values": [{{{keys}}}]}}',
        f'{{"values": [1, 2, 3, 4], {keys}}}',
        f'{{"values": [1, 2, 3, 4], {colliding}}}',
        '{"values": [1, 2, 3, 4]' + ', "values": [1, 2, 3, 4]' * (count // 4) + "}",
    ]
    with unharmed(zoo, resources=False):
        for body in bodies:
            before = cpu_s(zoo)
            refused(post(zoo, IRIS, body), "UNKNOWN_INPUT", "INVALID_DATATYPE", "INVALID_FIELD", "INVALID_JSON")
            assert cpu_s(zoo) - before < 4


ENCODINGS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("deflate", lambda body: zlib.compress(body, wbits=-15)),
    ("br", bytes),
    ("zstd", bytes),
    ("gzip, gzip, gzip", lambda body: gzip.compress(gzip.compress(gzip.compress(body)))),
    ("identity, gzip", gzip.compress),
    ("x\x7f", bytes),
    ("gzip" * 500, bytes),
    ("gzip", bytes),
    ("gzip", zlib.compress),
    ("deflate", gzip.compress),
    ("gzip", lambda body: gzip.compress(body) * 2),
    ("gzip", lambda body: gzip.compress(body)[:-1]),
]
TWICE_GZIP = [("Content-Encoding", "gzip"), ("content-encoding", "gzip")]
PREDICTIONS = (IRIS, INFER)


def code_of(answer: Answer) -> str:
    """The code of an error, in whichever shape it is told."""
    return answer.header("X-Error-Code") or str(json.loads(answer.body)["error"]["code"])


@pytest.mark.parametrize(("encoding", "encode"), ENCODINGS, ids=range(len(ENCODINGS)))
def test_p11_what_is_not_compressed_as_it_says_is_refused(
    encoding: str, encode: Callable[[bytes], bytes], zoo: RunningPlatform
) -> None:
    body = encode(b'{"values": [1, 2, 3, 4]}')
    for path in PREDICTIONS:
        answer = exchange(zoo.port, message("POST", path, {"Content-Encoding": encoding}, body))
        assert (answer.status, code_of(answer)) in {(415, "UNSUPPORTED_TYPE"), (400, "BAD_REQUEST")}, (encoding, answer)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_p11_only_predictions_may_be_compressed(encoding: str, zoo: RunningPlatform) -> None:
    for method, path in (("POST", ECHO), ("POST", "/api/v1/models/iris.onnx"), ("PUT", "/api/v1/models/new.onnx")):
        answer = exchange(zoo.port, message(method, path, {"Content-Encoding": encoding}, gzip.compress(b"{}")), method)
        assert (answer.status, code_of(answer)) == (415, "UNSUPPORTED_TYPE")
    assert "new.onnx" not in zoo.names()
    for path in PREDICTIONS:
        answer = exchange(zoo.port, message("POST", path, TWICE_GZIP, gzip.compress(gzip.compress(b"{}"))))
        assert (answer.status, code_of(answer)) == (415, "UNSUPPORTED_TYPE")


def peak_bytes(platform: RunningPlatform) -> int:
    """The most memory that any process of the inferrer has ever had."""
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in platform.children("inferrer")]
    return max(int(status.partition("VmHWM:")[2].split()[0]) * 1024 for status in statuses)


def bomb(size_bytes: int, coding: str, head: bytes = b"") -> bytes:
    """So many zeros, compressed."""
    deflater = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    pieces = [deflater.compress(head), *(deflater.compress(bytes(1 << 20)) for _ in range(size_bytes >> 20))]
    return b"".join(pieces) + deflater.flush()


def test_p11_a_bomb_is_inflated_no_further_than_a_body_may_be_long(zoo: RunningPlatform) -> None:
    size_bytes = 10 << 30 if SOAK else 100 << 20
    form = b"--x\r\nContent-Disposition: form-data; name=file; filename=x\r\n\r\n"
    tries = [
        (IRIS, "gzip", "", b""),
        (IRIS, "deflate", "image/png", b""),
        (IRIS, "gzip", "multipart/form-data; boundary=x", form),
        (INFER, "gzip", "application/json", b""),
        (INFER, "deflate", "application/octet-stream", b""),
    ]
    # The C library keeps of the form, which grows as it comes, up to a body's size for the next one.
    with unharmed(zoo, rss_bytes=80 << 20):
        before, peak = cpu_s(zoo), peak_bytes(zoo)
        for path, coding, content_type, head in tries:
            headers = {"Content-Encoding": coding, "Content-Type": content_type}
            answer = exchange(zoo.port, message("POST", path, headers, bomb(size_bytes, coding, head)), timeout_s=60)
            assert (answer.status, code_of(answer)) == (413, "TOO_LARGE"), (path, content_type)
        assert cpu_s(zoo) - before < 8
        assert peak_bytes(zoo) - peak < 200 << 20  # a body of 64 MiB, and what grows with it


def test_p11_malformed_bodies_leave_nothing_behind(zoo: RunningPlatform) -> None:
    bomb = gzip.compress(bytes(10 << 20))
    rng = np.random.default_rng(11)
    with unharmed(zoo), requests.Session() as session:
        for number in range(10_000 if SOAK else 300):
            body = bomb[: int(rng.integers(len(bomb)))] if number % 2 else rng.bytes(200)
            headers = {"Content-Encoding": ("gzip", "deflate", "br", "gzip, gzip", "")[number % 5]}
            path = PREDICTIONS[number // 10 % 2]
            answer = session.post(zoo.url + path, data=body, headers=headers, timeout=20)
            assert answer.status_code in {400, 415}, answer.text


@pytest.mark.parametrize("size", [1, 2])
def test_p12_a_body_in_crumbs_takes_no_more_than_one_in_a_piece(size: int, zoo: RunningPlatform) -> None:
    count = 1_000_000 if SOAK else 50_000
    crumbs = chunked(*[b" " * size] * count)
    with unharmed(zoo):
        before = cpu_s(zoo)
        for method, path in (("POST", IRIS), ("POST", ECHO), ("PUT", "/api/v1/models/new.onnx")):
            request = message(method, path, {"Transfer-Encoding": "chunked"}, crumbs)
            answer = exchange(zoo.port, request, method, timeout_s=60)
            assert answer.status in {400, 413, 422}, answer
        assert cpu_s(zoo) - before < count / 5000


def test_p12_crumbs_are_put_together_in_order(zoo: RunningPlatform) -> None:
    body = json.dumps({"values": [[5.1, 3.5, 1.4, 0.2]] * 3000}).encode()
    crumbs = [body[at : at + 3] for at in range(0, len(body), 3)]
    for pieces in (crumbs, [*crumbs[:50], b"".join(crumbs[50:-9]), *crumbs[-9:]]):
        answer = exchange(zoo.port, message("POST", IRIS, {"Transfer-Encoding": "chunked"}, chunked(*pieces)))
        assert answer.body == post(zoo, IRIS, body).content
    model = (SAMPLES / "iris.onnx" / "1" / "model.onnx").read_bytes()
    pieces = [model[at : at + 2] for at in range(0, len(model), 2)]
    with unharmed(zoo, models=[*zoo.names(), "crumbs.onnx"], resources=False):
        request = message("PUT", "/api/v1/models/crumbs.onnx", {"Transfer-Encoding": "chunked"}, chunked(*pieces))
        assert exchange(zoo.port, request, "PUT").status == 201


HOSTILE = ["<img src=x onerror=alert(1)>", "\r\nSet-Cookie: a=b", "\x1b[2J", "\u202e", "x" * 100_000, "\u2028", "'\"\\"]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_h13_messages_repeat_input_only_cut_off_and_escaped(text: str, zoo: RunningPlatform) -> None:
    for path, body in (
        (IRIS, {"values": [1, 2, 3, 4], text: 1}),
        (IRIS, {"values": {text: [1]}}),
        (IRIS, {"values": [1, 2, 3, 4], "outputs": [text]}),
        (IRIS, {text: 1}),
        ("/api/v1/models/iris.onnx", {text: 1}),
        ("/api/v1/models/iris.onnx", {"image": {text: 1}}),
    ):
        answer = post(zoo, path, json.dumps(body))
        refused(answer, "INVALID_FIELD", "UNKNOWN_INPUT", "INVALID_OUTPUT")
        assert answer.headers["Content-Type"] == "application/json"
        assert len(answer.content) < 1500
    for path in (f"{ECHO}?x=", "/api/v1/models?limit=", "/api/v1/models/iris.onnx:", "/api/v1/models/"):
        answer = requests.get(zoo.url + path + quote(text[:2000]), timeout=10)
        assert answer.content.isascii()
        assert "Set-Cookie" not in answer.headers
        assert len(answer.content) < 1500
    if text.isascii() and text.isprintable() and len(text) < 1000:
        for name in ("Content-Encoding", "Content-Type", "X-Request-Timeout-Ms", "X-Request-Id"):
            answer = post(zoo, IRIS, '{"values": 1}', **{name: text})
            assert answer.status_code in {400, 415, 422}
            assert len(answer.content) < 1000
            assert text not in answer.headers.values()
