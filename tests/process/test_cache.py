"""The cache of answers on the real platform: off unless asked for, never stale, never by chance, never an error.

The seed cached always, and answered for models that were deleted.
"""

import struct
import time
from collections.abc import Iterator
from typing import Any

import onnx
import pytest
import requests
from onnx import TensorProto, helper

from tests.harness.invariants import unharmed
from tests.harness.onnx_models import constant
from tests.harness.platform import RunningPlatform, running_platform, wait_until
from tests.harness.zoo import quotient

BODY = {"values": [[1]]}
CACHED = {"serving": {"cache": True}}
WORKERS = 2
ENVIRONMENT = {"INFERRER_CACHE_BYTES": "200000"}


@pytest.fixture(scope="module", params=["on", "off"])
def platform(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """A platform with the lane, and one where Flask answers everything."""
    environment = ENVIRONMENT | {"INFERRER_LANE": request.param}
    folder = tmp_path_factory.mktemp("cache") / "repository"
    with running_platform(folder, modelhosts=1, workers=WORKERS, environment=environment) as running:
        yield running


def chance() -> bytes:
    """[N, 1] -> [N, 1]: another number each time."""
    node = helper.make_node("RandomUniformLike", ["x"], ["y"])
    return _model([node])


def chance_below() -> bytes:
    """The same, inside a branch of an If inside a function of the model's own."""
    branch = helper.make_graph(
        [helper.make_node("RandomNormalLike", ["x"], ["z"])],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    body = [
        helper.make_node("Constant", [], ["yes"], value=yes),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch),
    ]
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function("local", "Chance", ["x"], ["y"], body, opset)
    return _model([helper.make_node("Chance", ["x"], ["y"], domain="local")], [function])


def _model(nodes: list[onnx.NodeProto], functions: list[onnx.FunctionProto] | None = None) -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid("local", 1)] if functions else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions or [])
    data: bytes = model.SerializeToString()
    return data


def change(platform: RunningPlatform, name: str, **fields: Any) -> requests.Response:  # noqa: ANN401 - any JSON
    return requests.post(platform.path(name), json=fields, timeout=60)


def upload(platform: RunningPlatform, name: str, data: bytes, *, cache: bool = True) -> None:
    platform.put(name, data).raise_for_status()
    if cache:
        change(platform, name, **CACHED).raise_for_status()


def ask_all(platform: RunningPlatform, name: str, body: object = BODY) -> list[requests.Response]:
    """The answers of every inferrer process, asked on fresh connections until each has answered four times."""
    answers: dict[str, list[requests.Response]] = {}
    ends_at = time.monotonic() + 30
    while len(answers) < WORKERS or min(map(len, answers.values())) < 4:
        answer = requests.post(f"{platform.path(name)}/prediction", json=body, timeout=30)
        answers.setdefault(answer.headers["X-Request-Id"].partition("-")[0], []).append(answer)
        assert time.monotonic() < ends_at, "some process never answers"
    return [answer for each in answers.values() for answer in each]


def hits(answers: list[requests.Response]) -> int:
    return sum(answer.headers.get("X-Cache") == "HIT" for answer in answers)


def test_off_unless_asked_for(platform: RunningPlatform) -> None:
    upload(platform, "plain", constant(3), cache=False)
    assert hits(ask_all(platform, "plain")) == 0
    assert requests.get(platform.path("plain"), timeout=10).json()["serving"]["cache"] is False


def test_repetitions_are_answered_from_the_cache(platform: RunningPlatform) -> None:
    upload(platform, "seven", constant(7))
    before = {name: platform.metric(rf'prediction_cache_{name}_total{{model="seven"}}') for name in ("hits", "misses")}
    answers = ask_all(platform, "seven")
    assert {answer.text for answer in answers} == {answers[0].text}
    assert answers[0].json()["values"] == [[7]]
    assert hits(answers) == len(answers) - WORKERS
    assert {answer.headers["X-Model-Version"] for answer in answers} == {"1"}

    def counted(name: str) -> float:
        return platform.metric(rf'prediction_cache_{name}_total{{model="seven"}}') - before[name]

    wait_until(lambda: counted("hits") == hits(answers) and counted("misses") == WORKERS, 10, "the counts")
    wait_until(lambda: platform.metric("prediction_cache_bytes") > 0, 10, "the gauge")


def test_every_protocol_has_its_own_answers(platform: RunningPlatform) -> None:
    """The same bytes on two routes are two questions; tensors behind the JSON come back as they were."""
    upload(platform, "spoken", constant(5))
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}
    raw = {"inputs": [tensor], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    asked: list[tuple[str, object]] = [
        ("/api/v1/models/spoken/prediction", BODY),
        ("/v1/models/spoken:predict", {"instances": [[1]]}),
        ("/v2/models/spoken/infer", {"inputs": [tensor]}),
        ("/v2/models/spoken/infer", {"inputs": [tensor], "id": "mine"}),
        ("/v2/models/spoken/infer", raw),
    ]
    for path, body in asked:
        answers = [requests.post(platform.url + path, json=body, timeout=30) for _ in range(WORKERS * 8)]
        assert {answer.status_code for answer in answers} == {200}, answers[0].text
        assert {answer.content for answer in answers} == {answers[0].content}
        fields = ("Content-Type", "X-Model-Version", "Inference-Header-Content-Length")
        assert {tuple(answer.headers.get(name) for name in fields) for answer in answers} == {
            tuple(answers[0].headers.get(name) for name in fields)
        }
        assert hits(answers) >= len(answers) - WORKERS
    assert answers[0].content.endswith(struct.pack("<f", 5))


def test_samples_without_a_word_on_chance_are_looked_at(platform: RunningPlatform) -> None:
    answer = change(platform, "iris.onnx", **CACHED)
    assert (answer.status_code, answer.json()["serving"]["cache"]) == (200, True), answer.text
    assert hits(ask_all(platform, "iris.onnx", {"values": [2, 5, 1, 4]})) > 0
    change(platform, "iris.onnx", serving={"cache": False}).raise_for_status()
    assert hits(ask_all(platform, "iris.onnx", {"values": [2, 5, 1, 4]})) == 0


def test_what_is_deleted_is_not_answered_and_what_replaces_it_answers(platform: RunningPlatform) -> None:
    with unharmed(platform):
        for number in range(5):
            upload(platform, "fleeting", constant(number))
            assert hits(ask_all(platform, "fleeting")) > 0
            requests.delete(platform.path("fleeting"), timeout=30).raise_for_status()
            gone = [answer.status_code for answer in ask_all(platform, "fleeting")]
            assert set(gone) == {404}


def test_a_new_version_a_roll_back_and_the_same_bytes_again(platform: RunningPlatform) -> None:
    upload(platform, "moving", constant(1))
    ask_all(platform, "moving")
    for number in (2, 3):
        platform.put("moving", constant(number)).raise_for_status()  # takes the setting over
        answers = ask_all(platform, "moving")
        assert {answer.json()["values"][0][0] for answer in answers} == {number}
        assert hits(answers) > 0
    for version in (1, 3, 2):
        requests.post(f"{platform.path('moving')}/default", json={"default": version}, timeout=60).raise_for_status()
        assert {answer.json()["values"][0][0] for answer in ask_all(platform, "moving")} == {version}
    requests.delete(platform.path("moving"), timeout=30).raise_for_status()
    platform.put("moving", constant(2)).raise_for_status()
    assert hits(ask_all(platform, "moving")) == 0  # a new model of the old bytes asks anew for a cache


@pytest.mark.parametrize("data", [chance(), chance_below()], ids=["plain", "in a branch in a function"])
def test_models_of_chance_are_not_cached(platform: RunningPlatform, data: bytes) -> None:
    upload(platform, "chance", data, cache=False)
    refused = change(platform, "chance", **CACHED)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "INVALID_FIELD")
    assert "chance" in refused.json()["error"]["message"]
    answers = ask_all(platform, "chance")
    assert hits(answers) == 0
    assert len({answer.text for answer in answers}) > 1
    # A version of chance in the place of one that is cached is not.
    requests.delete(platform.path("chance"), timeout=30).raise_for_status()
    upload(platform, "chance", constant(1))
    platform.put("chance", data).raise_for_status()
    assert requests.get(platform.path("chance"), timeout=10).json()["serving"]["cache"] is False
    assert hits(ask_all(platform, "chance")) == 0
    requests.delete(platform.path("chance"), timeout=30).raise_for_status()


def test_errors_are_not_cached(platform: RunningPlatform) -> None:
    upload(platform, "quotient", quotient())
    answers = ask_all(platform, "quotient", {"values": [["a", "b"]]})
    assert {answer.status_code for answer in answers} == {400}
    assert hits(answers) == 0


def test_the_bound_is_kept(platform: RunningPlatform) -> None:
    upload(platform, "bounded", constant(1))
    for number in range(200):
        platform.predict("bounded", [[number]] * 500).raise_for_status()
    size = wait_until(lambda: platform.metric("prediction_cache_bytes"), 10, "the gauge")
    assert size <= WORKERS * int(ENVIRONMENT["INFERRER_CACHE_BYTES"])
    assert size > 100_000


def test_answers_of_deleted_models_are_forgotten(platform: RunningPlatform) -> None:
    for name in platform.names():
        if not name.endswith(".onnx"):
            requests.delete(platform.path(name), timeout=30).raise_for_status()
    wait_until(lambda: platform.metric("prediction_cache_bytes") == 0, 15, "an empty cache")
