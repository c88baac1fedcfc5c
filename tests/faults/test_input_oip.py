"""Rows P02 to P08 and P12 for V2, the Open Inference Protocol over HTTP: the bodies that V1 refuses, and V2's own."""

import json
import struct
from collections.abc import Iterator
from itertools import islice, product

import pytest
import requests

from tests.faults.test_input import HOSTILE, SOAK, cpu_s, nested
from tests.harness.invariants import unharmed
from tests.harness.onnx_models import identity, two_inputs
from tests.harness.platform import RunningPlatform
from tests.harness.raw_http import chunked, exchange, message
from tests.harness.zoo import DATATYPES, quotient, zoo_platform

INFER = "/v2/models/iris.onnx/infer"
LENGTH = "Inference-Header-Content-Length"
ROW = '"name": "input", "shape": [1, 4], "datatype": "FP32"'


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    models = {
        "strings": identity(DATATYPES["BYTES"], ["N", 3]),
        "long": identity(DATATYPES["INT64"], ["N"]),
        "free": identity(DATATYPES["FP64"], [None, None]),
        "pair": two_inputs(),
        "quotient": quotient(),
    }
    with zoo_platform(tmp_path_factory.mktemp("zoo"), models, modelhosts=1, workers=1) as platform:
        yield platform


def infer(platform: RunningPlatform, body: str | bytes, name: str = "iris.onnx", **headers: str) -> requests.Response:
    data = body.encode() if isinstance(body, str) else body
    return requests.post(f"{platform.url}/v2/models/{name}/infer", data=data, headers=headers, timeout=60)


def given(fields: str, name: str = "x", shape: str = "[1, 3]", datatype: str = "BYTES") -> str:
    """A request with one input."""
    return f'{{"inputs": [{{"name": "{name}", "shape": {shape}, "datatype": "{datatype}", {fields}}}]}}'


def iris(data: str, shape: str = "[1, 4]") -> str:
    return given(f'"data": {data}', "input", shape, "FP32")


def refused(answer: requests.Response, *words: str, status: int = 400) -> str:
    """The answer is this kind of error in V2's shape, in a message of one short printable line; returns its code."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    text = answer.json()["error"]
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 1000
    for word in words:
        assert word in text, text
    return answer.headers["X-Error-Code"]


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ("[16, 1152921504606846978]", "[2, 5, 1, 4]"),
        ("[4, 1152921504606846978]", "[2, 5, 1, 4]"),
        ("[9223372036854775807, 9223372036854775807]", "[]"),
        ("[4611686018427387904, 4]", "[]"),
        ("[2, -5]", "[2, 5, 1, 4]"),
        ("[-1, 4]", "[2, 5, 1, 4]"),
        ("[-2, -2]", "[2, 5, 1, 4]"),
        ("[]", "[2, 5, 1, 4]"),
        ("[0]", "[]"),
        ("[0, 4]", "[2, 5, 1, 4]"),
        ("[4]", "[2, 5, 1, 4]"),
        ("[1, 1, 4]", "[2, 5, 1, 4]"),
        (json.dumps([1] * 10_000), "[2, 5, 1, 4]"),
        ("[1.0, 4]", "[2, 5, 1, 4]"),
        ("[1, 4.5]", "[2, 5, 1, 4]"),
        ("[true, 4]", "[2, 5, 1, 4]"),
        ('["1", 4]', "[2, 5, 1, 4]"),
        ("[[1], 4]", "[2, 5, 1, 4]"),
        ("null", "[2, 5, 1, 4]"),
        ("4", "[2, 5, 1, 4]"),
        ("{}", "[2, 5, 1, 4]"),
        ("[1, 4]", "[2, 5, 1]"),
        ("[1, 4]", "[2, 5, 1, 4, 3]"),
        ("[1, 4]", "[]"),
        ("[2, 4]", "[[2, 5, 1, 4]]"),
        ("[2, 2]", "[[2, 5], [1]]"),
    ],
    ids=range(26),
)
def test_p02_a_shape_that_is_none_or_not_the_datas_is_refused(shape: str, data: str, zoo: RunningPlatform) -> None:
    refused(infer(zoo, iris(data, shape)))
    tensor = f'{{"inputs": [{{"name": "input", "shape": {shape}, "datatype": "FP32", "parameters": '
    text = tensor + '{"binary_data_size": 12}}]}'
    refused(infer(zoo, text.encode() + bytes(12), **{LENGTH: str(len(text))}))


@pytest.mark.parametrize(
    ("body", "name", "word"),
    [
        (given('"data": [1, 2, 3]', datatype="FP32"), "strings", "x"),
        (given('"data": [2, 5, 1, 4]', "input", "[1, 4]", "FP64"), "iris.onnx", "input"),
        (given('"data": [2, 5, 1, 4]', "input", "[1, 4]", "FLOAT"), "iris.onnx", "datatype"),
        (given('"data": [2, 5, 1, 4]', "other", "[1, 4]", "FP32"), "iris.onnx", "other"),
        ('{"inputs": []}', "iris.onnx", "input"),
        ("{}", "iris.onnx", "inputs"),
        (f'{{"inputs": [{{{ROW}}}]}}', "iris.onnx", "data"),
        (f'{{"inputs": [{{{ROW}, "data": [2, 5, 1, 4]}}, {{{ROW}, "data": [2, 5, 1, 4]}}]}}', "iris.onnx", "input"),
        (given('"data": [1, 2]', "a", "[1, 2]", "FP32"), "pair", "b"),
        (iris('["2", 5, 1, 4]'), "iris.onnx", "input"),
        (iris("[true, 5, 1, 4]"), "iris.onnx", "input"),
        (iris("[null, 5, 1, 4]"), "iris.onnx", "input"),
        (given('"data": ["a", "b", 3]'), "strings", "x"),
        (iris("[2, 5, 1, 4]")[:-1] + ', "outputs": [{"name": "none"}]}', "iris.onnx", "none"),
        (iris("[2, 5, 1, 4]")[:-1] + ', "outputs": [{"name": "label"}, {"name": "label"}]}', "iris.onnx", "label"),
        (iris("[2, 5, 1, 4]")[:-1] + ', "outputs": [{}]}', "iris.onnx", "name"),
        (iris("[2, 5, 1, 4]")[:-1] + ', "id": 5}', "iris.onnx", "id"),
    ],
    ids=range(17),
)
def test_p03_what_is_wrong_is_named(body: str, name: str, word: str, zoo: RunningPlatform) -> None:
    refused(infer(zoo, body, name), word)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e999"])
def test_p04_what_json_does_not_have_is_refused(number: str, zoo: RunningPlatform) -> None:
    code = refused(infer(zoo, iris(f"[{number}, 5, 1, 4]")))
    assert code in {"INVALID_JSON", "INVALID_NUMBER", "INVALID_DATATYPE"}


def test_p04_what_json_does_not_have_is_null_in_an_answer_and_itself_in_bytes(zoo: RunningPlatform) -> None:
    body = given('"data": [0, 0, 1, 0, -1, 0, 1, 2]', "x", "[4, 2]", "FP32")
    answer = infer(zoo, body, "quotient")
    assert answer.json()["outputs"][0]["data"] == [None, None, None, 0.5]
    answer = infer(zoo, body[:-1] + ', "parameters": {"binary_data_output": true}}', "quotient")
    tensor = answer.content[int(answer.headers[LENGTH]) :]
    assert [str(number) for number in struct.unpack("<4f", tensor)] == ["nan", "inf", "-inf", "0.5"]


def test_p05_depth_is_bounded_wherever_it_stands(zoo: RunningPlatform) -> None:
    with unharmed(zoo):
        for depth in (65, 120, 1000, 100_000):
            for body in (
                "[" * depth,
                '{"a":' * depth,
                iris(nested(depth, "1")),
                '{"inputs": ' + "[" * depth,
                iris("[2, 5, 1, 4]")[:-1] + ', "id": ' + '{"a":' * depth + "1" + "}" * (depth + 1),
            ):
                refused(infer(zoo, body))
        # What is in a parameter that is not looked at matters only to the parser.
        refused(infer(zoo, iris("[2, 5, 1, 4]")[:-1] + f', "parameters": {{"a": {nested(100_000)}}}}}'))


@pytest.mark.parametrize(
    "number",
    ["9" * 20, "-" + "9" * 19, "9" * 400, "9" * 4000, "9" * 1_000_000, "1E+9999", "0x10", "007", "+1", ".5", "1."],
    ids=range(11),
)
def test_p06_what_is_no_number_is_refused(number: str, zoo: RunningPlatform) -> None:
    before = cpu_s(zoo)
    for body, name in (
        (iris(f"[{number}, 5, 1, 4]"), "iris.onnx"),
        (given(f'"data": [{number}]', "x", "[1]", "INT64"), "long"),
        (iris("[2, 5, 1, 4]", f"[{number}, 4]"), "iris.onnx"),
    ):
        refused(infer(zoo, body, name))
    assert cpu_s(zoo) - before < 2


def test_p06_the_ends_of_the_range_are_exact(zoo: RunningPlatform) -> None:
    numbers = [-(2**63), 2**63 - 1, 0, 2**53 + 1]
    answer = infer(zoo, given(f'"data": {numbers}', "x", "[4]", "INT64"), "long")
    assert answer.json()["outputs"][0]["data"] == numbers


NO_TEXTS = [
    b"\xff", b'{"inputs": "\xed\xa0\x80"}', b'{"inputs": "\\ud800"}', b"\xef\xbb\xbf{}", b'{"inputs": "\0"}', b"", b" ",
    b"{", b"{} {}", b'{"inputs": [], "inputs": []}', '{"inputs": 1}'.encode("utf-16"),
    '{"inputs": 1}'.encode("utf-32-be"),
]  # fmt: skip


@pytest.mark.parametrize("body", NO_TEXTS, ids=range(len(NO_TEXTS)))
def test_p07_p08_what_is_no_json_text_is_refused(body: bytes, zoo: RunningPlatform) -> None:
    refused(infer(zoo, body))


@pytest.mark.parametrize(
    "text", ["\0", "a\0b", "\U0010ffff", "\u2028", "é", "\r\n\t", "", "=cmd()", "x" * 100_000, '"']
)
def test_p07_p18_strings_come_back_as_they_went(text: str, zoo: RunningPlatform) -> None:
    data = [text, "b", text]
    answer = infer(zoo, given(f'"data": {json.dumps(data)}'), "strings")
    assert answer.json()["outputs"][0]["data"] == data
    tensor = b"".join(struct.pack("<I", len(item.encode())) + item.encode() for item in data)
    head = given(f'"parameters": {{"binary_data_size": {len(tensor)}}}')
    head = head[:-1] + ', "parameters": {"binary_data_output": true}}'
    answer = infer(zoo, head.encode() + tensor, "strings", **{LENGTH: str(len(head))})
    assert answer.content[int(answer.headers[LENGTH]) :] == tensor


def test_p08_a_million_keys_cost_little(zoo: RunningPlatform) -> None:
    count = 1_000_000 if SOAK else 100_000
    keys = ",".join(f'"k{number}":{number}' for number in range(count))
    colliding = ",".join(f'"{"".join(parts)}":0' for parts in islice(product(("Aa", "BB"), repeat=20), count))
    tensor = iris("[2, 5, 1, 4]")[:-1]
    with unharmed(zoo, resources=False):
        for body in (
            f'{tensor}, "parameters": {{{keys}}}, "id": 1}}',
            f'{tensor}, "parameters": {{{colliding}}}, "id": 1}}',
            f'{{"inputs": {{{keys}}}}}',
            f'{{"inputs": [{{{keys}}}]}}',
            f'{{"inputs": [{"{}," * count}{{}}]}}',
            tensor + ', "id": "a"' * (count // 4) + "}",
        ):
            before = cpu_s(zoo)
            refused(infer(zoo, body))
            assert cpu_s(zoo) - before < 4


def test_p12_a_body_in_crumbs_takes_no_more_than_one_in_a_piece(zoo: RunningPlatform) -> None:
    text = iris("[2, 5, 1, 4]").encode()
    te = {"Transfer-Encoding": "chunked"}
    crumbs = [text[at : at + 1] for at in range(len(text))]
    assert exchange(zoo.port, message("POST", INFER, te, chunked(*crumbs))).body == infer(zoo, text).content
    count = 1_000_001 if SOAK else 50_001  # no whole number of rows
    with unharmed(zoo):
        before = cpu_s(zoo)
        for fields in (te, te | {LENGTH: "0"}, te | {LENGTH: "10"}):
            assert exchange(zoo.port, message("POST", INFER, fields, chunked(*[b" "] * count))).status == 400
        assert cpu_s(zoo) - before < count / 5000


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_h13_messages_repeat_input_only_cut_off_and_escaped(text: str, zoo: RunningPlatform) -> None:
    quoted = json.dumps(text)
    tensor = iris("[2, 5, 1, 4]")[:-1]
    for body in (
        iris("[2, 5, 1, 4]").replace('"input"', quoted),
        iris("[2, 5, 1, 4]").replace('"FP32"', quoted),
        f'{tensor}, "outputs": [{{"name": {quoted}}}]}}',
        f"{{{quoted}: 1}}",
    ):
        answer = infer(zoo, body)
        refused(answer)
        assert len(answer.content) < 1500
    if text.isascii() and text.isprintable() and len(text) < 1000:
        for name in ("Content-Encoding", "Content-Type", "X-Request-Timeout-Ms", LENGTH):
            answer = infer(zoo, tensor, **{name: text})
            assert answer.status_code in {400, 415}
            assert len(answer.content) < 1000
            assert text not in answer.headers.values()
