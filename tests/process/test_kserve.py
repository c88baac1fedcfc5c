"""KServe's V1 protocol: what its client asks, in rows and by columns, and its form of errors."""

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.harness.onnx_models import column_means, identity, two_inputs
from tests.harness.platform import RunningPlatform
from tests.harness.zoo import DATATYPES, quotient, zoo_platform


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    models = {
        "pair": two_inputs(),
        "strings": identity(DATATYPES["BYTES"], ["N", 2]),
        "quotient": quotient(),
        "means": column_means(),
        "bare": identity(DATATYPES["FP32"], ["N"]),
    }
    with zoo_platform(tmp_path_factory.mktemp("kserve"), models, modelhosts=1, workers=1) as running:
        yield running


def predict(platform: RunningPlatform, name: str, body: Any, **options: Any) -> requests.Response:  # noqa: ANN401 - any JSON
    return requests.post(f"{platform.url}/v1/models/{name}:predict", json=body, timeout=30, **options)


def test_models_and_their_readiness(platform: RunningPlatform) -> None:
    url = f"{platform.url}/v1/models"
    assert requests.get(platform.url, timeout=10).json()["status"] == "alive"
    assert "iris.onnx" in requests.get(url, timeout=10).json()["models"]
    assert requests.get(f"{url}/iris.onnx", timeout=10).json() == {"name": "iris.onnx", "ready": True}
    missing = requests.get(f"{url}/none", timeout=10)
    assert (missing.status_code, missing.headers["Content-Type"]) == (404, "application/json")
    assert "none" in missing.json()["error"]


def test_instances_are_rows(platform: RunningPlatform) -> None:
    answer = predict(platform, "iris.onnx", {"instances": [[2, 5, 1, 4], [7.0, 3.2, 4.7, 1.4]]})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.headers["X-Model-Version"] == "1"
    predictions = answer.json()["predictions"]
    assert [row["label"] for row in predictions] == [1, 1]
    assert all(len(row["probabilities"]) == 3 for row in predictions)


@pytest.mark.parametrize(
    ("name", "body", "predictions"),
    [
        ("quotient", {"instances": [[6, 3], [1, 2]]}, [[2.0], [0.5]]),
        ("quotient", {"instances": [[0, 0]]}, [[None]]),
        ("quotient", {"inputs": [[6, 3], [1, 2]]}, [[2.0], [0.5]]),
        ("quotient", {"inputs": {"x": [[6, 3]]}}, [[2.0]]),
        ("quotient", {"instances": [{"x": [6, 3]}, {"x": [1, 2]}]}, [[2.0], [0.5]]),
        ("quotient", {"signature_name": "serving_default", "instances": [[6, 3]]}, [[2.0]]),
        ("strings", {"instances": [["a", "true"], ["c", "[]"]]}, [["a", "true"], ["c", "[]"]]),
        ("bare", {"instances": [1, 2.5, 3]}, [1.0, 2.5, 3.0]),
    ],
)
def test_one_output_is_a_bare_value(platform: RunningPlatform, name: str, body: object, predictions: object) -> None:
    answer = predict(platform, name, body)
    assert (answer.status_code, answer.json()) == (200, {"predictions": predictions})


def test_several_inputs_have_names(platform: RunningPlatform) -> None:
    columns = {"a": [[1, 2], [3, 4]], "b": [[10, 20], [30, 40]]}
    rows = [{name: values[row] for name, values in columns.items()} for row in range(2)]
    by_row, by_column = (predict(platform, "pair", body) for body in ({"instances": rows}, {"inputs": columns}))
    assert by_row.status_code == 200, by_row.text
    assert by_row.json() == by_column.json()
    assert len(by_row.json()["predictions"]) == 2


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("iris.onnx", {"instances": [2, 5, 1, 4]}, 400),  # one row, not four instances
        ("iris.onnx", {"instances": [[2, 5, 1]]}, 400),
        ("iris.onnx", {"instances": [["a", 5, 1, 4]]}, 400),
        ("iris.onnx", {"instances": {"input": [2, 5, 1, 4]}}, 400),
        ("iris.onnx", {"instances": [[2, 5, 1, 4], {"input": [2, 5, 1, 4]}]}, 400),
        ("iris.onnx", {"instances": [{"input": [2, 5, 1, 4]}, [2, 5, 1, 4]]}, 400),
        ("iris.onnx", {"instances": [{"other": [2, 5, 1, 4]}]}, 400),
        ("iris.onnx", {"instances": [[2, 5, 1, 4]], "inputs": []}, 400),
        ("iris.onnx", {"instances": [[2, 5, 1, 4]], "more": 1}, 400),
        ("iris.onnx", {"instances": [[2, 5, 1, 4]], "signature_name": "x"}, 400),
        ("iris.onnx", {"inputs": 5}, 400),
        ("iris.onnx", {}, 400),
        ("iris.onnx", [1], 400),
        ("none", {"instances": [[1]]}, 404),
        ("iris.onnx:2", {"instances": [[2, 5, 1, 4]]}, 404),
    ],
)
def test_errors_are_the_protocols(platform: RunningPlatform, name: str, body: object, status: int) -> None:
    answer = predict(platform, name, body)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json"), answer.text
    assert list(answer.json()) == ["error"]
    assert answer.headers["X-Error-Code"]


def test_a_name_that_stands_twice_is_refused(platform: RunningPlatform) -> None:
    url = f"{platform.url}/v1/models/quotient:predict"
    for text in ('{"instances": [[1, 2]], "instances": [[1, 2]]}', '{"instances": [{"x": [1, 2], "x": [1, 2]}]}'):
        answer = requests.post(url, data=text, headers={"Content-Type": "application/json"}, timeout=30)
        assert (answer.status_code, answer.headers["X-Error-Code"]) == (400, "INVALID_JSON"), answer.text


def test_what_is_not_one_value_for_each_instance_has_no_form_here(platform: RunningPlatform) -> None:
    answer = predict(platform, "means", {"instances": [[1, 2], [3, 4], [5, 6]]})
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (500, "MODEL_OUTPUT_INVALID")
    by_column = predict(platform, "means", {"inputs": [[1, 2], [3, 4]]})
    assert by_column.json() == {"predictions": [2.0, 3.0]}
