"""The structure check: honest models pass, each limit is one, and what is no message is refused wherever it ends."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlbuffet.errors import ExternalDataError, InvalidModelError, MLBuffetError, ModelTooComplexError, ModelUnsafeError
from modelhost.structure import schema
from modelhost.structure.calls import Body, FunctionKey, check_calls
from modelhost.structure.check import check_structure
from modelhost.structure.wire import Field, Span, read_message, read_numbers
from tests.harness import hostile_models as hostile
from tests.harness import onnx_models, zoo
from tests.harness.attempt import attempt
from tests.harness.platform import SAMPLES

HONEST: dict[str, Callable[[], bytes]] = {
    "constant": lambda: onnx_models.constant(1, padding_bytes=1000),
    "slow": onnx_models.slow,
    "image": onnx_models.image_mean,
    "zipmap": zoo.zipmap,
    "text": lambda: onnx_models.identity(TensorProto.STRING),
    "functions": lambda: hostile.function_chain(5),
    "nested": lambda: hostile.nested(schema.LEVELS),
}


def error_of(data: bytes) -> type[MLBuffetError] | None:
    _, error = attempt(lambda: check_structure(data))
    return type(error) if error else None


@pytest.mark.parametrize("name", HONEST)
def test_honest_models_pass(name: str) -> None:
    assert error_of(HONEST[name]()) is None


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*/1/model.onnx")), ids=lambda path: path.parts[-3])
def test_sample_models_pass(path: Path) -> None:
    assert error_of(path.read_bytes()) is None


@pytest.mark.parametrize(
    "dtype",
    ["bool", "float16", "float32", "float64", "complex64", "complex128"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)],
)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors_of_every_type_pass_raw_and_as_numbers(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    numbers = helper.make_tensor("w", kind, shape, array.ravel())
    for tensor in (numpy_helper.from_array(array, "w"), numbers):
        body = hostile.graph([hostile.harmless()], [tensor])
        assert error_of(hostile.model(body).SerializeToString()) is None


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "FLOAT4E2M1", "FLOAT8E4M3FN", "BFLOAT16", "STRING"])
def test_tensors_of_types_without_numpy_pass(kind: str) -> None:
    data_type = getattr(TensorProto, kind)
    values: list[Any] = [b"a", b"b", b"c"] if kind == "STRING" else [1, 0, 1]
    tensor = helper.make_tensor("w", data_type, [3], values)
    assert error_of(hostile.model(hostile.graph([hostile.harmless()], [tensor])).SerializeToString()) is None


def test_what_the_runtime_saves_passes() -> None:
    """It names all its domains, whether they are used or not."""
    domains = ["ai.onnx.ml", "ai.onnx.training", "com.microsoft.nchwc", "org.pytorch.aten", "ai.onnx.preview.training"]
    opsets = {"": 17} | dict.fromkeys(domains, 1)
    assert error_of(hostile.model(hostile.graph([hostile.harmless()]), opsets=opsets).SerializeToString()) is None
    node = helper.make_node("Conv", ["x"], ["y"], domain="com.microsoft.nchwc")
    assert error_of(hostile.of_nodes(node)) is ModelUnsafeError


@pytest.mark.parametrize("place", hostile.external_everywhere("w"))
def test_m01_external_data_is_found_everywhere(place: str) -> None:
    assert error_of(hostile.external_everywhere("w")[place]) is ExternalDataError


@pytest.mark.parametrize(
    ("corpus", "expected"),
    [
        (hostile.endless_functions, {ModelTooComplexError}),
        (hostile.too_complex, {ModelTooComplexError}),
        (hostile.unknown_operators, {ModelUnsafeError}),
        (hostile.too_large, {InvalidModelError, ModelTooComplexError, None}),
    ],
)
def test_m06_m08_m12_m13_the_corpus_is_refused(
    corpus: Callable[[], dict[str, bytes]], expected: set[type[MLBuffetError] | None]
) -> None:
    found = {name: error_of(data) for name, data in corpus().items()}
    assert set(found.values()) == expected, found


def test_text_is_counted_over_the_whole_file() -> None:
    half = "x" * (schema.TEXT_BYTES // 2 + 1)
    node = hostile.harmless()
    node.doc_string = half
    body = hostile.graph([node])
    assert error_of(hostile.model(body).SerializeToString()) is None
    body.input[0].doc_string = half
    assert error_of(hostile.model(body).SerializeToString()) is ModelTooComplexError


def test_limits_are_exact() -> None:
    node = helper.make_node("Identity", ["x"], ["z"]).SerializeToString()
    assert error_of(hostile.repeated(1, node, schema.NODES - 1)) is None
    assert error_of(hostile.repeated(1, node, schema.NODES)) is ModelTooComplexError
    assert error_of(hostile.nested(schema.LEVELS + 1)) is ModelTooComplexError
    # A chain of n functions is n levels of calls.
    assert error_of(hostile.function_chain(schema.CALLS)) is None
    assert error_of(hostile.function_chain(schema.CALLS + 1)) is ModelTooComplexError


def test_calls_count_as_often_as_they_are_made() -> None:
    leaf, middle = FunctionKey("own", "leaf", ""), FunctionKey("own", "middle", "")
    functions = {leaf: Body(100, {}), middle: Body(1, {leaf: 100})}
    check_calls(Body(1, {middle: 9}), functions)
    with pytest.raises(ModelTooComplexError, match="nodes"):
        check_calls(Body(1, {middle: 10}), functions)


def test_a_function_may_share_the_name_of_an_operator_it_uses() -> None:
    """Another domain, or another overload, is another function."""
    own, other = FunctionKey("own", "Add", ""), FunctionKey("own", "Add", "two")
    check_calls(Body(1, {own: 1}), {own: Body(1, {FunctionKey("", "Add", ""): 1, other: 1}), other: Body(1, {})})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        bytes(100),
        b"\x89PNG\r\n\x1a\n",
        b"\x80" * 20,  # a number without end
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a length beyond the end
        b"\x0b\x0c",  # a group
        b"\x08\x08",  # no graph
        b"\x08\x08" + hostile.field(7, b"") * 2,  # two graphs, which other parsers would join
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    assert error_of(data) is InvalidModelError


def test_a_file_that_ends_anywhere_is_refused_and_never_crashes() -> None:
    data = zoo.zipmap()
    for end in range(len(data)):
        assert error_of(data[:end]) in {InvalidModelError, None}, end


def test_damage_gives_only_our_own_errors() -> None:
    rng = random.Random(0)  # noqa: S311 - reproducible, not secret
    sound = [build() for build in HONEST.values()]
    for _ in range(2_000):
        data = bytearray(rng.choice(sound)[:5_000])
        for _ in range(rng.choice([1, 3, 30])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        attempt(lambda data=bytes(data): check_structure(data))  # type: ignore[misc] # mypy reads no defaults of lambdas


def test_long_runs_of_numbers_are_skipped_at_once() -> None:
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml")
    node.attribute.add(name="nodes_treeids", type=onnx.AttributeProto.INTS, ints=[0, 1, -1, 1 << 62] * 50_000)
    node.attribute.add(name="nodes_values", type=onnx.AttributeProto.FLOATS, floats=[0.5] * 200_000)
    assert error_of(hostile.of_nodes(node)) is None


def test_fields_are_read_as_they_are_encoded() -> None:
    packed, number, wide, text = b"\x0a\x02\x96\x01", b"\x10\x96\x01", b"\x19" + bytes([7, *bytes(7)]), b"\x22\x01x"
    data = packed + number + wide + text + b"\x2d\1\2\3\4"
    fields = {1: Field("packed", 2), 2: Field("number"), 3: Field("wide"), 4: Field("text")}
    message = read_message(data, Span(0, len(data)), fields)
    assert [data[begin:end] for begin, end in message.all("text", "packed")] == [b"x", b"\x96\x01"]
    assert (message.number("number"), message.number("wide"), message.number("other")) == (150, 7, 0)
    assert read_numbers(data, message.all("packed")[0], Field("packed", 1)) == [150]


def node_model(*nodes: onnx.NodeProto) -> bytes:
    """A model of these nodes; only the structure is looked at."""
    graph = helper.make_graph(nodes, "graph", [], [])
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return data


@pytest.mark.parametrize("operator", sorted(schema.RANDOM))
def test_operators_of_chance_are_found_at_any_depth(operator: str) -> None:
    node = helper.make_node(operator, ["x"], ["y"], seed=1.0)
    branch = helper.make_graph([node], "branch", [], [])
    inside = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    assert not check_structure(node_model(node))
    assert not check_structure(node_model(inside))
    function = helper.make_function("own", "F", ["x"], ["y"], [node], [helper.make_opsetid("", 17)])
    model = onnx.ModelProto.FromString(node_model(helper.make_node("F", ["x"], ["y"], domain="own")))
    model.functions.append(function)
    assert not check_structure(model.SerializeToString())


def test_dropout_is_chance_in_training_only() -> None:
    assert check_structure(node_model(helper.make_node("Dropout", ["x"], ["y"])))
    assert check_structure(node_model(helper.make_node("Dropout", ["x", "ratio"], ["y"])))
    assert check_structure(node_model(helper.make_node("Dropout", ["x", "ratio", ""], ["y"])))
    assert not check_structure(node_model(helper.make_node("Dropout", ["x", "ratio", "training"], ["y"])))
    assert check_structure(onnx_models.constant(1))
