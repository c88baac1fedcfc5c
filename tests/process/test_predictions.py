"""Predictions by JSON: rows P01, P03, P04, P07 and P18, and what a request may look like."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from onnxruntime import InferenceSession, SessionOptions

from tests.harness.onnx_models import identity, two_inputs
from tests.harness.platform import SAMPLES, RunningPlatform
from tests.harness.zoo import DATATYPES, quotient, zipmap, zoo_platform

RANGES = {"iris.onnx": 8, "wine.onnx": 20, "diabetes.onnx": 200, "digits.onnx": 16, "pictures.onnx": 2}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    models = {
        "strings": identity(DATATYPES["BYTES"], ["N", 3]),
        "scalar": identity(DATATYPES["FP64"], []),
        "free": identity(DATATYPES["FP64"], [None, None]),
        "pair": two_inputs(),
        "quotient": quotient(),
        "zipmap": zipmap(),
    }
    with zoo_platform(tmp_path_factory.mktemp("zoo"), models) as platform:
        yield platform


def post(platform: RunningPlatform, name: str, body: str | bytes) -> requests.Response:
    return requests.post(f"{platform.path(name)}/prediction", data=body, timeout=30)


def refused(answer: requests.Response, status: int, code: str, *words: str) -> None:
    """The answer is this error, and its message has these words."""
    data = answer.json()
    assert (answer.status_code, data["http_status"]["code"], data["error"]["code"]) == (status, status, code), data
    assert answer.headers["Content-Type"] == "application/json"
    for word in words:
        assert word in data["error"]["message"], data


def direct(name: str) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(SAMPLES / name / "1" / "model.onnx", options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", RANGES)
def test_p01_a_thousand_random_inputs_give_what_the_runtime_gives(name: str, zoo: RunningPlatform) -> None:
    session, rng = direct(name), np.random.default_rng(1)
    (given,) = session.get_inputs()
    names = [spec.name for spec in session.get_outputs()]
    with requests.Session() as client:
        for turn in range(200):
            rows = 1 if turn % 2 else int(rng.integers(1, 9))
            batch = (rng.random((rows, *given.shape[1:])) * RANGES[name]).astype(np.float32)
            values: Any = batch[0].tolist() if turn % 4 == 1 else batch.tolist()
            body = {"values": values, "outputs": "all"}
            answer = client.post(f"{zoo.path(name)}/prediction", json=body, timeout=30)
            assert answer.status_code == 200, answer.text
            data, expected = answer.json(), session.run(names, {given.name: batch})
            assert data["http_status"]["code"] == 200
            assert list(data["outputs"]) == names
            assert data["values"] == data["outputs"][names[0]]
            for output, array in zip(names, expected, strict=True):
                np.testing.assert_allclose(data["outputs"][output], array, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "body", "code", "word"),
    [
        ("iris.onnx", {"values": ["a", 1, 2, 3]}, "INVALID_DATATYPE", "'input'"),
        ("iris.onnx", {"values": [True, 1, 2, 3]}, "INVALID_DATATYPE", "a boolean"),
        ("iris.onnx", {"values": [None, 1, 2, 3]}, "INVALID_DATATYPE", "null"),
        ("iris.onnx", {"values": [{"a": 1}, 1, 2, 3]}, "INVALID_DATATYPE", "an object"),
        ("strings", {"values": ["a", "b", 3]}, "INVALID_DATATYPE", "'x' takes strings"),
        ("strings", {"values": ["a", "b", None]}, "INVALID_DATATYPE", "null"),
        ("strings", {"values": ["a", "b", ["c"]]}, "INVALID_SHAPE", "'x'"),
        ("strings", {"values": [["a", "b", "c"], ["d"]]}, "INVALID_SHAPE", "rectangular"),
        ("pair", {"values": {"a": [1, 2]}}, "MISSING_INPUT", "'b'"),
        ("pair", {"values": {}}, "MISSING_INPUT", "'a', 'b'"),
        ("pair", {"values": [[1, 2]]}, "MISSING_INPUT", "'a', 'b'"),
        ("pair", {"values": {"a": [1, 2], "b": [1, 2], "c": [1]}}, "UNKNOWN_INPUT", "'c'"),
        ("pair", {"values": {"a": [1, 2], "b": [1, 2, 3]}}, "INVALID_SHAPE", "'b'"),
        ("pair", {"values": {"a": [1, 2], "b": "x"}}, "INVALID_DATATYPE", "'b'"),
        ("iris.onnx", {"values": [1, 2, 3]}, "INVALID_SHAPE", "have the shape [3]; expected [any, 4]"),
        ("iris.onnx", {"values": [[1, 2, 3, 4, 5]]}, "INVALID_SHAPE", "have the shape [1, 5]; expected [any, 4]"),
        ("iris.onnx", {"values": []}, "INVALID_SHAPE", "[0]"),
        ("iris.onnx", {"values": [[1, 2, 3, 4], [1]]}, "INVALID_SHAPE", "rectangular"),
        ("iris.onnx", {"values": {"input": 5}}, "INVALID_SHAPE", "[]"),
        ("scalar", {"values": [5]}, "INVALID_SHAPE", "'x' have the shape [1]; expected []"),
        ("iris.onnx", {"values": [1, 2, 3, 4], "outputs": ["other"]}, "INVALID_OUTPUT", "'other'"),
        ("iris.onnx", {"values": [1, 2, 3, 4], "outputs": ["label", "label"]}, "INVALID_OUTPUT", "'label'"),
    ],
)
def test_p03_wrong_fields_are_named(name: str, body: object, code: str, word: str, zoo: RunningPlatform) -> None:
    refused(post(zoo, name, json.dumps(body)), 400, code, word)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("{}", "'values' is missing"),
        ('{"value": [1]}', "'value'"),
        ("[1]", "a list"),
        ('"x"', "a string"),
        ("null", "null"),
        ('{"values": 5}', "a number"),
        ('{"values": "x"}', "a string"),
        ('{"values": null}', "null"),
        ('{"values": true}', "a boolean"),
        ('{"values": [1, 2, 3, 4], "parameters": {}}', "'parameters'"),
        ('{"values": [1, 2, 3, 4], "outputs": []}', "'outputs'"),
        ('{"values": [1, 2, 3, 4], "outputs": [1]}', "'outputs'"),
        ('{"values": [1, 2, 3, 4], "outputs": "label"}', "'outputs'"),
    ],
)
def test_missing_and_mistyped_fields_are_422(body: str, word: str, zoo: RunningPlatform) -> None:
    refused(post(zoo, "iris.onnx", body), 422, "INVALID_FIELD", word)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_p04_what_json_has_no_word_for_is_refused(number: str, zoo: RunningPlatform) -> None:
    refused(post(zoo, "iris.onnx", f'{{"values": [{number}, 1, 2, 3]}}'), 400, "INVALID_JSON")


def test_p04_what_json_does_not_have_is_null_in_an_answer(zoo: RunningPlatform) -> None:
    answer = zoo.predict("quotient", [[0, 0], [1, 0], [-1, 0], [1, 2]])
    assert answer.status_code == 200
    assert b"NaN" not in answer.content
    assert answer.json()["values"] == [[None], [None], [None], [0.5]]


@pytest.mark.parametrize(
    "body",
    [
        b'{"values": ["\xff", "b", "c"]}',
        b'{"values": ["\xed\xa0\x80", "b", "c"]}',
        b'{"values": ["\xc0\x80", "b", "c"]}',
        b'{"values": ["\\ud800", "b", "c"]}',
        b'{"values": ["\\udc00\\ud800", "b", "c"]}',
        b'\xef\xbb\xbf{"values": ["a", "b", "c"]}',
        '{"values": ["a", "b", "c"]}'.encode("utf-16"),
        '{"values": ["a", "b", "c"]}'.encode("utf-16-be"),
        '{"values": ["a", "b", "c"]}'.encode("utf-32"),
        b"",
        b" ",
        b"{",
        b'{"values": ["a", "b", "c"]} {}',
        b'{"values": ["a", "b", "c"], "values": ["a", "b", "c"]}',
        b'{"values": {"x": ["a", "b", "c"], "x": ["a", "b", "c"]}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"values": ["\n", "b", "c"]}',
    ],
)
def test_p07_what_is_no_json_text_is_refused(body: bytes, zoo: RunningPlatform) -> None:
    refused(post(zoo, "strings", body), 400, "INVALID_JSON")


STRINGS = [
    "\0", "a\0b", "\U0001f600", "\U0010ffff", "\u2028\u2029", "\ufeff", "\ufffe", "é", "e\u0301", "\u202e", "\r\n\t",
    "", "=cmd()", "{{7*7}}", "${jndi:ldap://127.0.0.1/x}", "' OR 1=1", "<script>alert(1)</script>", "</script>", "\\",
    '"', "%s", "../../etc/passwd", "true", "null", "x" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", STRINGS, ids=range(len(STRINGS)))
def test_p07_p18_strings_are_data_and_come_back_as_they_went(text: str, zoo: RunningPlatform) -> None:
    for escaped in (True, False):
        answer = post(zoo, "strings", json.dumps({"values": [[text, "b", text]]}, ensure_ascii=escaped).encode())
        assert answer.status_code == 200, answer.text
        assert answer.json()["values"] == [[text, "b", text]]
        assert answer.headers["Content-Type"] == "application/json"
        assert b"\r" not in answer.content


def test_p18_an_error_repeats_what_was_sent_only_escaped(zoo: RunningPlatform) -> None:
    for text in ("<script>", "\r\nSet-Cookie: a=b", "\u2028", "\x1b[31m", "x" * 5000):
        answer = post(zoo, "iris.onnx", json.dumps({"values": [1, 2, 3, 4], "outputs": [text]}))
        refused(answer, 400, "INVALID_OUTPUT")
        assert len(answer.content) < 1000
        assert answer.content.isascii()
        assert not set(answer.content) & set(range(32))


def test_outputs_are_the_first_or_those_asked_for(zoo: RunningPlatform) -> None:
    values = {"a": [[1, 2]], "b": [[3, 5]]}
    total, difference = [[4.0, 7.0]], [[-2.0, -3.0]]
    for asked, expected in (
        (None, None),
        ("all", {"total": total, "difference": difference}),
        (["difference"], {"difference": difference}),
        (["difference", "total"], {"difference": difference, "total": total}),
    ):
        body = {"values": values} | ({"outputs": asked} if asked else {})
        data = post(zoo, "pair", json.dumps(body)).json()
        assert data.get("outputs") == expected
        assert list(data.get("outputs", {})) == list(expected or {})
        assert data["values"] == (next(iter(expected.values())) if expected else total)


def test_an_input_may_be_given_by_name_and_one_observation_without_its_axis(zoo: RunningPlatform) -> None:
    expected = zoo.predict("iris.onnx", [[2, 5, 1, 4]]).json()
    for values in ([2, 5, 1, 4], {"input": [2, 5, 1, 4]}, {"input": [[2, 5, 1, 4]]}, [2.0, 5, 1.0, 4]):
        assert zoo.predict("iris.onnx", values).json() == expected


def test_scalars_and_empty_batches_keep_their_shape(zoo: RunningPlatform) -> None:
    assert zoo.predict("scalar", {"x": 5}).json()["values"] == 5.0
    assert zoo.predict("free", [[]]).json()["values"] == [[]]
    assert zoo.predict("free", [[], []]).json()["values"] == [[], []]
    assert zoo.predict("free", []).json()["values"] == [[]]
    assert zoo.predict("free", [1, 2]).json()["values"] == [[1.0, 2.0]]


def test_get_with_a_body_is_as_good_as_post(zoo: RunningPlatform) -> None:
    answer = requests.get(f"{zoo.path('iris.onnx')}/prediction", json={"values": [2, 5, 1, 4]}, timeout=10)
    assert answer.json() == zoo.predict("iris.onnx", [2, 5, 1, 4]).json()


def test_maps_of_a_classifier_are_objects(zoo: RunningPlatform) -> None:
    data = post(
        zoo, "zipmap", json.dumps({"values": [[5.1, 3.5, 1.4, 0.2], [7, 3.2, 4.7, 1.4]], "outputs": "all"})
    ).json()
    assert data["values"] == [0, 1]
    (maps,) = [value for name, value in data["outputs"].items() if name != "output_label"]
    assert [set(chances) for chances in maps] == [{"0", "1", "2"}] * 2
    assert [sum(chances.values()) for chances in maps] == pytest.approx([1, 1])


def test_an_answer_says_its_version_and_its_request(zoo: RunningPlatform) -> None:
    answer = zoo.predict("iris.onnx", [2, 5, 1, 4], **{"X-Request-Id": "mine-1"})
    assert (answer.headers["X-Model-Version"], answer.headers["X-Request-Id"]) == ("1", "mine-1")
    failed = zoo.predict("iris.onnx", [2], **{"X-Request-Id": "mine-2"})
    assert (failed.headers["X-Request-Id"], failed.json()["error"]["request_id"]) == ("mine-2", "mine-2")
    records = [item for item in zoo.records() if item.get("request_id") == "mine-2"]
    assert [(item["status"], item["code"]) for item in records] == [(400, "INVALID_SHAPE")]


def test_a_very_long_string_among_many_numbers_costs_nothing(zoo: RunningPlatform) -> None:
    """As a numpy array of equal widths it would take 400 GB."""
    body = b'{"values": [[' + b"1," * 100_000 + b'"' + b"x" * 1_000_000 + b'"]]}'
    refused(post(zoo, "free", body), 400, "INVALID_DATATYPE", "a string")


def test_nothing_was_broken_by_all_this(zoo: RunningPlatform) -> None:
    assert not [item for item in zoo.records() if item["level"] == "ERROR"]
    for number in (1, 2):
        records = zoo.records(f"modelhost-{number}")
        assert not [item for item in records if item["level"] == "ERROR" or item["event"] == "runner died"]
    assert zoo.staged() == []
    assert sorted(path.name for path in Path(zoo.repository).iterdir() if not path.name.startswith(".")) == zoo.names()
