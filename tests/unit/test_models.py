"""The sample models are what their manifests and README.md say, and training them again gives the same answers."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from PIL import Image

from mlbuffet.manifest import MANIFEST_FILE, MODEL_FILE, Manifest
from mlbuffet.names import is_model_name

MODELS = Path(__file__).resolve().parents[2] / "models"
NAMES = ("diabetes.onnx", "digits.onnx", "iris.onnx", "pictures.onnx", "wine.onnx")


def folder(name: str, root: Path = MODELS) -> Path:
    """Find the version that the default pointer names."""
    return root / name / (root / name / "default").read_text(encoding="utf-8").strip()


def manifest(name: str, root: Path = MODELS) -> Manifest:
    """Read the manifest of a model's default version."""
    return Manifest.from_json(json.loads((folder(name, root) / MANIFEST_FILE).read_text(encoding="utf-8")))


def first_output(name: str, batch: object, root: Path = MODELS) -> NDArray[Any]:
    """Run a model, by the first input's name, on a batch."""
    session = InferenceSession(folder(name, root) / MODEL_FILE, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: np.asarray(batch, np.float32)})[0])


def golden(name: str) -> dict[str, Any]:
    """Read a model's golden input and answer."""
    recorded = manifest(name).golden
    assert recorded is not None
    return dict(recorded)


@pytest.fixture(scope="module")
def remade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train all models once more, elsewhere."""
    out = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, MODELS / "make.py", "--out", out], check=True, timeout=300)
    return out


def test_every_sample_model_is_tested() -> None:
    assert tuple(sorted(path.parent.name for path in MODELS.glob("*/default"))) == NAMES
    assert all(map(is_model_name, NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_manifest_describes_the_file(name: str) -> None:
    recorded, content = manifest(name), (folder(name) / MODEL_FILE).read_bytes()
    assert recorded.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert recorded.size_bytes == len(content)
    assert (recorded.model, recorded.version) == (name, int(folder(name).name))
    session = InferenceSession(content, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().description == recorded.description
    for specs, nodes in (
        (recorded.signature.inputs, session.get_inputs()),
        (recorded.signature.outputs, session.get_outputs()),
    ):
        assert [spec.name for spec in specs] == [node.name for node in nodes]
        assert [spec.shape for spec in specs] == [(None, *node.shape[1:]) for node in nodes]
        assert {node.shape[0] for node in nodes} == {"N"}


@pytest.mark.parametrize("name", NAMES)
def test_golden_answer_is_given_alone_and_in_a_batch(name: str) -> None:
    values, result = golden(name)["values"], golden(name)["result"]
    for rows in (1, 3):
        answers = first_output(name, [values] * rows)
        np.testing.assert_allclose(answers, np.repeat(result, rows, axis=0), rtol=1e-4, atol=1e-5)


def test_iris_answers_what_readme_prints() -> None:
    printed = re.search(
        r'`{"values": \[2, 5, 1, 4\]}` → `{"values": \[(\d)\]}`', (MODELS / "README.md").read_text(encoding="utf-8")
    )
    assert printed is not None
    assert first_output("iris.onnx", [[2, 5, 1, 4]]).tolist() == [int(printed[1])]


def test_iris_gives_probabilities_for_lengths_that_have_no_logarithm() -> None:
    session = InferenceSession(folder("iris.onnx") / MODEL_FILE, providers=["CPUExecutionProvider"])
    _, probabilities = session.run(None, {"input": np.array([[0, 0, 0, 0], [-1, 3, -5, 0]], np.float32)})
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "file", "label"),
    [
        ("digits.onnx", "seven.png", "7"),
        ("pictures.onnx", "flower.jpg", "flower"),
        ("pictures.onnx", "china.jpg", "china"),
    ],
)
def test_example_picture_is_recognised(name: str, file: str, label: str) -> None:
    settings = manifest(name).image
    _, channels, height, width = manifest(name).signature.inputs[0].shape
    assert isinstance(height, int)
    assert isinstance(width, int)
    with Image.open(MODELS / "images" / file) as opened:
        picture = opened.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.float32).reshape(height, width, -1)
    prepared = (pixels * settings.scale - (settings.mean or (0,))) / (settings.std or (1,))
    answer = first_output(name, [prepared.transpose(2, 0, 1)])[0]
    assert settings.labels[int(answer if answer.ndim == 0 else answer.argmax())] == label


@pytest.mark.parametrize("name", NAMES)
def test_training_again_gives_the_same_golden_answer(name: str, remade: Path) -> None:
    again = first_output(name, [golden(name)["values"]], remade)
    # Another CPU's arithmetic may differ in the last bits, and training carries that on.
    np.testing.assert_allclose(again, golden(name)["result"], rtol=1e-3, atol=1e-3)
    assert manifest(name, remade).signature == manifest(name).signature
