"""Small ONNX models made on the spot, each with a property that a test needs."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET = [helper.make_opsetid("", 17)]


def _bytes(graph: onnx.GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=_OPSET, ir_version=8, producer_name="mlbuffet-tests")
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def _value(name: str, shape: list[int | str | None], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def constant(number: float, *, padding_bytes: int = 0) -> bytes:
    """[N, 1] -> [N, 1]: answers `number` whatever it is given; `padding_bytes` makes the file larger."""
    initializers = [numpy_helper.from_array(np.array([[number]], np.float32), "number")]
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "number"], ["y"]),
    ]
    initializers.append(numpy_helper.from_array(np.zeros((1, 1), np.float32), "zero"))
    if padding_bytes:
        padding = np.random.default_rng(int(number)).random(padding_bytes // 4, np.float32)
        initializers.append(numpy_helper.from_array(padding, "padding"))
        nodes += [
            helper.make_node("ReduceMin", ["padding"], ["least"], keepdims=0),
            helper.make_node("Mul", ["least", "zero"], ["none"]),
            helper.make_node("Add", ["none", "number"], ["same"]),
        ]
        nodes[1] = helper.make_node("Add", ["nothing", "same"], ["y"])
        nodes = [nodes[0], *nodes[2:], nodes[1]]
    return _bytes(helper.make_graph(nodes, "constant", [_value("x", ["N", 1])], [_value("y", ["N", 1])], initializers))


def slow(steps: int | None = None) -> bytes:
    """[1] -> [1]: counts to the given number in a Loop of small kernels, so that a run takes as long as it is told.

    With `steps` it always counts so far, whatever it is given.

    About 1 million steps take a second or two; the runtime can stop it between two steps.
    """
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition_in"], ["condition_out"]),
            helper.make_node("Add", ["sum_in", "one"], ["sum_out"]),
        ],
        "body",
        [
            _value("step", [], TensorProto.INT64),
            _value("condition_in", [], TensorProto.BOOL),
            _value("sum_in", [1]),
        ],
        [_value("condition_out", [], TensorProto.BOOL), _value("sum_out", [1])],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    nodes = [helper.make_node("Loop", ["trips", "", "start"], ["y"], body=body)]
    initializers = [numpy_helper.from_array(np.zeros(1, np.float32), "start")]
    if steps is None:
        cast = helper.make_node("Cast", ["x"], ["count"], to=TensorProto.INT64)
        nodes = [cast, helper.make_node("Squeeze", ["count"], ["trips"]), *nodes]
    else:
        initializers.append(numpy_helper.from_array(np.array(steps, np.int64), "trips"))
    return _bytes(helper.make_graph(nodes, "slow", [_value("x", [1])], [_value("y", [1])], initializers))


def two_inputs() -> bytes:
    """A [N, 2] and b [N, 2] -> total and difference, both [N, 2]."""
    nodes = [helper.make_node("Add", ["a", "b"], ["total"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    inputs = [_value("a", ["N", 2]), _value("b", ["N", 2])]
    outputs = [_value("total", ["N", 2]), _value("difference", ["N", 2])]
    return _bytes(helper.make_graph(nodes, "two_inputs", inputs, outputs))


def identity(kind: int = TensorProto.FLOAT, shape: list[int | str | None] | None = None) -> bytes:
    """Gives back what it is given, of any type and shape."""
    wanted: list[int | str | None] = ["N", 3] if shape is None else shape
    node = helper.make_node("Identity", ["x"], ["y"])
    return _bytes(helper.make_graph([node], "identity", [_value("x", wanted, kind)], [_value("y", wanted, kind)]))


def image_mean(channels: int = 3, size: int = 8, *, channels_first: bool = True) -> bytes:
    """An image model: the mean of each channel of [N, C, H, W] or [N, H, W, C]."""
    shape: list[int | str | None] = ["N", channels, size, size] if channels_first else ["N", size, size, channels]
    axes = [2, 3] if channels_first else [1, 2]
    node = helper.make_node("ReduceMean", ["image"], ["mean"], axes=axes, keepdims=0)
    return _bytes(helper.make_graph([node], "image_mean", [_value("image", shape)], [_value("mean", ["N", channels])]))


def column_means() -> bytes:
    """[N, 2] -> [2]: what it gives is not one value for each row."""
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[0], keepdims=0)
    return _bytes(helper.make_graph([node], "column_means", [_value("x", ["N", 2])], [_value("y", [2])]))
