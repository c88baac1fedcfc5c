"""Requests that wait together run together, and nobody can tell by the answers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from onnx import helper

from tests.harness import onnx_models
from tests.harness.invariants import modelhost_url
from tests.harness.platform import RunningPlatform
from tests.harness.zoo import sine, zoo_platform

REQUESTS = 400


def centred() -> bytes:
    """[N, 4] -> [N, 4]: each row less the mean of all rows: they must not be joined with others."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    inputs, outputs = [onnx_models._value("x", ["N", 4])], [onnx_models._value("y", ["N", 4])]
    return onnx_models._bytes(helper.make_graph(nodes, "centred", inputs, outputs))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    models = {"sine": sine(), "centred": centred(), "wide": sine(2)}
    with zoo_platform(tmp_path_factory.mktemp("zoo"), models, modelhosts=1, workers=1) as platform:
        yield platform


def counted(zoo: RunningPlatform, name: str, model: str) -> float:
    """One of the modelhost's counters of a model."""
    text = requests.get(f"{modelhost_url(zoo, 'modelhost-1')}/metrics", timeout=10).text
    wanted = f'{name}{{model="{model}",version="1"}}'
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(wanted))


def ask_all(zoo: RunningPlatform, model: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Predict for all inputs, many at a time; the answers in the order of the inputs."""

    def ask(values: np.ndarray) -> np.ndarray:
        answer = zoo.predict(model, values.tolist())
        assert answer.status_code == 200, answer.text
        return np.array(answer.json()["values"], np.float32)

    with ThreadPoolExecutor(32) as threads:
        return list(threads.map(ask, inputs))


@pytest.mark.alone
def test_requests_that_pile_up_run_together_and_get_their_own_rows(zoo: RunningPlatform) -> None:
    rng = np.random.default_rng(7)
    inputs = [rng.random((rng.integers(1, 5), 4), np.float32) for _ in range(REQUESTS)]
    runs = counted(zoo, "modelhost_version_batches_total", "sine")
    answers = ask_all(zoo, "sine", inputs)
    runs = counted(zoo, "modelhost_version_batches_total", "sine") - runs
    for values, answer in zip(inputs, answers, strict=True):
        for _ in range(200):
            values = np.sin(values)  # noqa: PLW2901 - the model's chain
        np.testing.assert_allclose(answer, values, rtol=1e-4)
    assert runs < REQUESTS * 0.9, runs
    assert counted(zoo, "modelhost_version_predictions_total", "sine") == REQUESTS


def test_rows_that_depend_on_each_other_are_never_joined(zoo: RunningPlatform) -> None:
    rng = np.random.default_rng(8)
    inputs = [rng.random((rng.integers(1, 5), 4), np.float32) for _ in range(REQUESTS)]
    runs = counted(zoo, "modelhost_version_batches_total", "centred")
    for values, answer in zip(inputs, ask_all(zoo, "centred", inputs), strict=True):
        np.testing.assert_allclose(answer, values - values.mean(0), atol=1e-6)
    assert counted(zoo, "modelhost_version_batches_total", "centred") - runs == REQUESTS


def test_a_request_that_the_model_refuses_spoils_no_other(zoo: RunningPlatform) -> None:
    with ThreadPoolExecutor(32) as threads:
        asked = [
            threads.submit(zoo.predict, "wide", [[1, 2, 3]] if number % 5 == 0 else [[0, 0, 0, number]])
            for number in range(100)
        ]
    for number, answer in enumerate(asked):
        if number % 5 == 0:
            assert (answer.result().status_code, answer.result().json()["error"]["code"]) == (400, "INVALID_SHAPE")
        else:
            expected = np.sin(np.sin(np.array([[0, 0, 0, number]], np.float32)))
            np.testing.assert_allclose(answer.result().json()["values"], expected, rtol=1e-5)
