"""Models with a property each, and a platform that serves them beside the samples."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.harness import onnx_models
from tests.harness.platform import RunningPlatform, running_platform

DATATYPES: Mapping[str, int] = {
    "BOOL": TensorProto.BOOL,
    "BYTES": TensorProto.STRING,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
} | {f"{sign}INT{bits}": getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)}


def quotient() -> bytes:
    """[N, 2] -> [N, 1]: the first number by the second; 0/0 is NaN, 1/0 infinity."""
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1),
        helper.make_node("Div", ["a", "b"], ["y"]),
    ]
    inputs, outputs = [onnx_models._value("x", ["N", 2])], [onnx_models._value("y", ["N", 1])]
    return onnx_models._bytes(helper.make_graph(nodes, "quotient", inputs, outputs))


def matrix() -> bytes:
    """[1] -> [1]: multiplies two square matrices of the given size in one kernel, which no stop reaches."""
    nodes = [
        helper.make_node("Max", ["x", "one"], ["least"]),
        helper.make_node("Cast", ["least"], ["size"], to=TensorProto.INT64),
        helper.make_node("Concat", ["size", "size"], ["shape"], axis=0),
        helper.make_node("Expand", ["half", "shape"], ["left"]),
        helper.make_node("MatMul", ["left", "left"], ["product"]),
        helper.make_node("ReduceMax", ["product"], ["most"], keepdims=0),
        helper.make_node("Unsqueeze", ["most", "axis"], ["y"]),
    ]
    initializers = [
        numpy_helper.from_array(np.ones(1, np.float32), "one"),
        numpy_helper.from_array(np.full(1, 0.5, np.float32), "half"),
        numpy_helper.from_array(np.zeros(1, np.int64), "axis"),
    ]
    inputs, outputs = [onnx_models._value("x", [1])], [onnx_models._value("y", [1])]
    return onnx_models._bytes(helper.make_graph(nodes, "matrix", inputs, outputs, initializers))


def sine(repeats: int = 200) -> bytes:
    """[N, 4] -> [N, 4]: a chain of small kernels, so that a prediction costs the runner some time."""
    names = ["x", *(f"step{number}" for number in range(repeats - 1)), "y"]
    nodes = [helper.make_node("Sin", [before], [after]) for before, after in pairwise(names)]
    inputs, outputs = [onnx_models._value("x", ["N", 4])], [onnx_models._value("y", ["N", 4])]
    return onnx_models._bytes(helper.make_graph(nodes, "sine", inputs, outputs))


def lethal() -> bytes:
    """A valid file whose block size of 2**32 makes the runtime that loads it divide by zero: SIGFPE."""
    node = helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=1 << 32)
    shape: list[int | str | None] = [1, 4, 2, 2]
    graph = helper.make_graph([node], "lethal", [onnx_models._value("x", shape)], [onnx_models._value("y", [None] * 4)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def fragile() -> bytes:
    """[N] -> [N] whole numbers: the least of 64 bits divided by the input; by -1 that is SIGFPE while it runs."""
    node = helper.make_node("Div", ["least", "x"], ["y"])
    least = numpy_helper.from_array(np.full(1, np.iinfo(np.int64).min), "least")
    kinds = [onnx_models._value(name, ["N"], TensorProto.INT64) for name in ("x", "y")]
    return onnx_models._bytes(helper.make_graph([node], "fragile", kinds[:1], kinds[1:], [least]))


def hungry() -> bytes:
    """[1] -> [1]: makes an array of so many MiB as it is told, and adds it up."""
    nodes = [
        helper.make_node("Mul", ["x", "mebi"], ["length"]),
        helper.make_node("Cast", ["length"], ["shape"], to=TensorProto.INT64),
        helper.make_node("Expand", ["one", "shape"], ["array"]),
        helper.make_node("ReduceMax", ["array"], ["most"], keepdims=0),
        helper.make_node("Unsqueeze", ["most", "axis"], ["y"]),
    ]
    initializers = [
        numpy_helper.from_array(np.full(1, (1 << 20) / 4, np.float32), "mebi"),
        numpy_helper.from_array(np.ones(1, np.float32), "one"),
        numpy_helper.from_array(np.zeros(1, np.int64), "axis"),
    ]
    inputs, outputs = [onnx_models._value("x", [1])], [onnx_models._value("y", [1])]
    return onnx_models._bytes(helper.make_graph(nodes, "hungry", inputs, outputs, initializers))


@cache
def zipmap() -> bytes:
    """A classifier as skl2onnx writes it unless told otherwise: its probabilities are a sequence of maps."""
    from skl2onnx import to_onnx  # noqa: PLC0415 - slow to import
    from sklearn.datasets import load_iris  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    features, species = load_iris(return_X_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier = LogisticRegression(max_iter=1000).fit(features, species)
        model: onnx.ModelProto = to_onnx(classifier, features[:1].astype(np.float32), target_opset=17)
    data: bytes = model.SerializeToString()
    return data


@contextmanager
def zoo_platform(folder: Path, models: Mapping[str, bytes], **options: Any) -> Iterator[RunningPlatform]:  # noqa: ANN401 - as it takes them
    """A platform with the samples and these models."""
    with running_platform(folder / "repository", **options) as platform:
        for name, data in models.items():
            answer = platform.put(name, data)
            assert answer.status_code == 201, answer.text
        yield platform
