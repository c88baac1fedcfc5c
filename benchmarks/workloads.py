"""What is asked of every server: four ONNX models, one row for each, and the answer it must have.

The weights come from a fixed seed, so every run and every machine has the same files. Iris is the sample model; the
others are made here, their first axis free:

- `mlp`: 784 → 256 → 128 → 10, the size of a classifier of handwritten digits;
- `image`: MobileNetV2 (Sandler et al., CVPR 2018) at 1x3x224x224, batch normalisation folded in, 3.5 million weights
  and 300 million multiplications a row;
- `reduce`: the mean of each channel of 1x3x512x512, 3 MiB in and 12 bytes out: nearly all is transport.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.environments import ROOT

IRIS = ROOT / "models" / "iris.onnx" / "1"
_SEED = 20_261_121
_OPSET = 17
_IR_VERSION = 8
# Expansion, channels, repeats, stride: table 2 of the paper.
_BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


@dataclass(frozen=True, slots=True)
class Workload:
    """One model and one row for it."""

    name: str
    model: Path
    rows: NDArray[np.float64]  # one row, with few decimals: as JSON they are as long as people's numbers are
    expected: NDArray[np.generic]  # the model's first output, by onnxruntime itself
    heavy: bool  # a row is worth more than one thread

    @property
    def tensor(self) -> NDArray[np.float32]:
        """The row as the model takes it."""
        return self.rows.astype(np.float32)


def make_workloads(folder: Path) -> list[Workload]:
    """Write the models into a folder, and beside each its row as `.npy`."""
    rng = np.random.default_rng(_SEED)
    golden = json.loads((IRIS / "manifest.json").read_text(encoding="utf-8"))["golden"]["values"]
    return [
        _workload("iris", Path(shutil.copy(IRIS / "model.onnx", folder / "iris.onnx")), np.asarray([golden])),
        _workload("mlp", _mlp(folder, rng), rng.random((1, 784)).round(4)),
        _workload("image", _mobilenet(folder, rng), rng.random((1, 3, 224, 224)).round(4), heavy=True),
        _workload("reduce", _reduction(folder), rng.random((1, 3, 512, 512)).round(6)),
    ]


def _workload(name: str, model: Path, rows: NDArray[np.float64], *, heavy: bool = False) -> Workload:
    np.save(model.with_suffix(".npy"), rows.astype(np.float32))
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    first = session.get_outputs()[0].name
    expected = session.run([first], {"input": rows.astype(np.float32)})[0]
    return Workload(name, model, rows, expected, heavy)


class _Graph:
    """A chain of nodes with weights from a generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = rng
        self._names: Iterator[str] = (f"t{number}" for number in range(10_000))

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - as onnx takes them
        """Add a node; returns its output's name."""
        output = next(self._names)
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def weight(self, *shape: int, fan_in: int) -> str:
        """Add random weights that keep the size of what goes through (He et al., 2015)."""
        return self.constant(self._rng.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32))

    def constant(self, values: NDArray[np.float32]) -> str:
        """Add values as they are."""
        name = next(self._names)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        """A fully connected layer."""
        bias = self.constant(np.zeros(outputs, np.float32))
        return self.node("Gemm", x, self.weight(inputs, outputs, fan_in=inputs), bias)

    def convolution(self, x: str, channels: tuple[int, int], kernel: int, stride: int = 1, group: int = 1) -> str:
        """A convolution from so many channels to so many, as if batch normalisation were folded in."""
        inputs, outputs = channels
        per_group = inputs // group
        weight = self.weight(outputs, per_group, kernel, kernel, fan_in=per_group * kernel * kernel)
        bias = self.constant(np.zeros(outputs, np.float32))
        return self.node("Conv", x, weight, bias, strides=[stride] * 2, pads=[kernel // 2] * 4, group=group)

    def relu6(self, x: str) -> str:
        """Between 0 and 6."""
        return self.node("Clip", x, *(self.constant(np.array(bound, np.float32)) for bound in (0, 6)))

    def save(self, path: Path, last: str, row: list[int], answer: list[int]) -> Path:
        """Write it with `last` as the output."""
        self.nodes.append(helper.make_node("Identity", [last], ["output"]))
        inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *row])]
        outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", *answer])]
        graph = helper.make_graph(self.nodes, path.stem, inputs, outputs, self.weights)
        opset = [helper.make_opsetid("", _OPSET)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION), path)
        return path


def _mlp(folder: Path, rng: np.random.Generator) -> Path:
    graph = _Graph(rng)
    x = graph.node("Relu", graph.dense("input", 784, 256))
    x = graph.node("Relu", graph.dense(x, 256, 128))
    x = graph.node("Softmax", graph.dense(x, 128, 10), axis=1)
    return graph.save(folder / "mlp.onnx", x, [784], [10])


def _mobilenet(folder: Path, rng: np.random.Generator) -> Path:
    graph = _Graph(rng)
    x = graph.relu6(graph.convolution("input", (3, 32), 3, stride=2))
    channels = 32
    for expansion, outputs, repeats, first_stride in _BLOCKS:
        for repeat in range(repeats):
            stride = 1 if repeat else first_stride
            x = _bottleneck(graph, x, (channels, outputs), expansion, stride)
            channels = outputs
    x = graph.relu6(graph.convolution(x, (channels, 1280), 1))
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    return graph.save(folder / "image.onnx", graph.dense(x, 1280, 1000), [3, 224, 224], [1000])


def _bottleneck(graph: _Graph, x: str, channels: tuple[int, int], expansion: int, stride: int) -> str:
    """Widen, filter each channel, narrow; add what came in where the shapes allow it."""
    inputs, outputs = channels
    wide = inputs * expansion
    y = x if expansion == 1 else graph.relu6(graph.convolution(x, (inputs, wide), 1))
    y = graph.relu6(graph.convolution(y, (wide, wide), 3, stride=stride, group=wide))
    y = graph.convolution(y, (wide, outputs), 1)
    return graph.node("Add", x, y) if stride == 1 and inputs == outputs else y


def _reduction(folder: Path) -> Path:
    graph = _Graph(np.random.default_rng(_SEED))
    mean = graph.node("ReduceMean", "input", axes=[2, 3], keepdims=0)
    return graph.save(folder / "reduce.onnx", mean, [3, 512, 512], [3])
