"""The Open Inference Protocol's codec, both ways, held against numpy and the standard library's JSON."""

import json
import math
import struct
from collections.abc import Iterator, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlbuffet.errors import MLBuffetError, ModelOutputError
from mlbuffet.manifest import Signature, TensorSpec
from modelhost.codecs import oip
from modelhost.codecs.request import Answer, Array, Decoded, Served
from modelhost.runtimes.onnx import DTYPES
from tests.harness.attempt import attempt

Shape = tuple[int | None, ...]


@pytest.fixture(scope="module", autouse=True)
def _errors_as_in_a_runner() -> Iterator[None]:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        yield


def served(*inputs: tuple[str, str, Shape], outputs: Sequence[tuple[str, str]] = (("y", "FP32"),)) -> Served:
    taken = tuple(TensorSpec(*spec) for spec in inputs)
    return Served("m", 3, Signature(taken, tuple(TensorSpec(*spec, (None,)) for spec in outputs)))


def decode(request: Any, version: Served, tensors: bytes = b"") -> Decoded:  # noqa: ANN401 - any JSON
    text = request if isinstance(request, bytes) else json.dumps(request).encode()
    body = bytearray(text + tensors)  # as in a runner, whose buffer changes later
    return oip.decode(memoryview(body), len(text) if tensors else 0, version)


def one(datatype: str = "FP32", shape: Sequence[Any] = (1, 2), **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """A request with one input; `fields` are its other fields."""
    return {"inputs": [{"name": "x", "datatype": datatype, "shape": list(shape)} | fields]}


def refusal(request: Any, version: Served, tensors: bytes = b"") -> MLBuffetError:  # noqa: ANN401 - any JSON
    _, error = attempt(lambda: decode(request, version, tensors))
    assert error is not None
    assert error.status == 400
    assert len(error.message) < 1000
    assert error.message.isprintable()
    return error


def packed(array: Array) -> bytes:
    """The bytes of a tensor, by the letter of the extension."""
    if array.dtype.kind != "O":
        return array.astype(array.dtype.newbyteorder("<")).tobytes()
    texts = [text.encode() for text in array.ravel()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def unpacked(datatype: str, data: bytes) -> list[Any]:
    if datatype != "BYTES":
        found: list[Any] = np.frombuffer(data, DTYPES[datatype]).tolist()
        return found
    texts = []
    while data:
        (size,) = struct.unpack_from("<I", data)
        texts.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    return texts


def answered(answer: Answer) -> dict[str, Any]:
    """An answer as a client reads it: values of every output by name, from the JSON or from behind it."""
    body = b"".join(answer.pieces)
    split = answer.split or len(body)
    told = json.loads(body[:split], parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    rest = body[split:]
    for output in told["outputs"]:
        if "data" not in output:
            size = output["parameters"]["binary_data_size"]
            output["data"], rest = unpacked(output["datatype"], rest[:size]), rest[size:]
    assert not rest
    assert told["model_name"] == "m"
    assert told["model_version"] == "3"
    result: dict[str, Any] = told
    return result


shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def elements(datatype: str) -> st.SearchStrategy[Any] | None:
    if datatype == "BYTES":
        return st.text(max_size=4)
    if datatype.startswith("FP"):
        return st.floats(width=int(datatype[2:]), allow_nan=False, allow_infinity=False)  # type: ignore[arg-type]
    return None


tensors = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda datatype: arrays.arrays(DTYPES[datatype], shapes, elements=elements(datatype)).map(
        lambda array: (datatype, array)
    )
)
NEUTRAL = st.fixed_dictionaries(
    {},
    optional={"id": st.text(max_size=3), "parameters": st.just({"sequence_id": 1}), "model_name": st.text(max_size=3)},
)


@given(
    st.lists(tensors, min_size=1, max_size=3),
    st.lists(st.sampled_from(["flat", "nested", "binary"]), min_size=3),
    NEUTRAL,
)
@example([("BOOL", np.zeros((2, 0, 3), np.bool_))], ["nested"] * 3, {})
def test_every_datatype_comes_in_as_it_was_sent(
    sent: list[tuple[str, Array]], forms: list[str], more: dict[str, Any]
) -> None:
    version = served(*((f"x{number}", kind, array.shape) for number, (kind, array) in enumerate(sent)))
    inputs, behind = [], b""
    for number, (kind, array) in reversed(list(enumerate(sent))):
        item: dict[str, Any] = {"name": f"x{number}", "datatype": kind, "shape": list(array.shape)}
        if forms[number] == "binary":
            item["parameters"] = {"binary_data_size": len(packed(array))}
            behind += packed(array)
        else:
            nested = forms[number] == "nested" and array.ndim
            item["data"] = array.tolist() if nested else array.ravel().tolist()
        inputs.append(item)
    for _ in range(2):  # the second time from memory
        decoded = decode({"inputs": inputs} | more, version, behind)
        assert list(decoded.feeds) == [f"x{number}" for number in range(len(sent))]
        for number, (kind, array) in enumerate(sent):
            got = decoded.feeds[f"x{number}"]
            assert got.dtype == DTYPES[kind]
            assert got.flags.aligned
            np.testing.assert_array_equal(got, array)
        assert answered(decoded.encode([np.zeros(1, np.float32)])).get("id") == more.get("id")


@given(st.lists(tensors, min_size=1, max_size=3), st.lists(st.booleans(), min_size=3), st.booleans(), st.booleans())
def test_every_datatype_goes_out_as_the_model_gave_it(
    given_: list[tuple[str, Array]],
    binary: list[bool],
    by_default: bool,  # noqa: FBT001
    asked: bool,  # noqa: FBT001
) -> None:
    names = [(f"y{number}", kind) for number, (kind, _) in enumerate(given_)]
    request = one(data=[1, 2]) | {"parameters": {"binary_data_output": by_default}}
    if asked:
        request["outputs"] = [
            {"name": name, "parameters": {"binary_data": binary[number]}} for number, (name, _) in enumerate(names)
        ]
    decoded = decode(request, served(("x", "FP32", (None, 2)), outputs=names))
    assert decoded.outputs == tuple(name for name, _ in names)
    answer = decoded.encode([array for _, array in given_])
    assert bool(answer.split) == (any(binary[: len(names)]) if asked else by_default)
    for (name, kind), (_, array), output in zip(names, given_, answered(answer)["outputs"], strict=True):
        assert (output["name"], output["datatype"], output["shape"]) == (name, kind, list(array.shape))
        np.testing.assert_array_equal(np.array(output["data"], array.dtype), array.ravel())


def test_nan_is_null_in_json_and_itself_in_bytes_which_are_not_copied() -> None:
    output = np.array([[1, math.nan, math.inf]], np.float32)
    version = served(("x", "FP32", (None, 2)))
    told = answered(decode(one(data=[1, 2]), version).encode([output]))
    assert told["outputs"][0]["data"] == [1, None, None]
    asked = one(data=[1, 2]) | {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    answer = decode(asked, version).encode([output])
    assert answer.pieces[1] == output.tobytes()
    assert np.shares_memory(np.frombuffer(answer.pieces[1], np.float32), output)


def test_bytes_come_in_without_a_copy_where_they_are_aligned() -> None:
    values = np.arange(6, dtype=np.float32)
    for spaces in range(4):
        text = json.dumps(one(shape=[3, 2], parameters={"binary_data_size": 24})).encode() + b" " * spaces
        body = bytearray(text + values.tobytes())
        feed = oip.decode(memoryview(body), len(text), served(("x", "FP32", (None, 2)))).feeds["x"]
        np.testing.assert_array_equal(feed.ravel(), values)
        assert np.shares_memory(feed, np.frombuffer(body, np.uint8)) == (len(text) % 4 == 0)


def test_bare_bytes_are_the_one_input() -> None:
    def raw(data: bytes, *spec: Any) -> Decoded:  # noqa: ANN401 - a tensor's
        return oip.decode_raw(memoryview(data), 0, served(("x", *spec)))

    values = np.arange(8, dtype=np.int16)
    fitting: list[tuple[Shape, Shape]] = [((None, 4), (2, 4)), ((4, None), (4, 2)), ((2, 4), (2, 4)), ((None,), (8,))]
    for shape, expected in fitting:
        decoded = raw(values.tobytes(), "INT16", shape)
        np.testing.assert_array_equal(decoded.feeds["x"], values.reshape([axis or 0 for axis in expected]))
        assert answered(decoded.encode([np.array([1, math.nan], np.float32)]))["outputs"][0]["shape"] == [2]
        assert decoded.encode([np.zeros(2, np.float32)]).split
    assert raw(b"", "INT16", (None, 4)).feeds["x"].shape == (0, 4)
    assert raw("a\0é".encode(), "BYTES", (None, 1)).feeds["x"].tolist() == [["a\0é"]]
    refused: list[tuple[bytes, str, Shape, str]] = [
        (b"1234567", "INT16", (None, 4), "INVALID_SHAPE"), (b"12", "INT16", (2, 4), "INVALID_SHAPE"),
        (b"1234", "FP32", (None, None), "INVALID_SHAPE"), (b"1234", "FP32", (None, 0), "INVALID_SHAPE"),
        (b"ab", "BYTES", (None, 2), "INVALID_SHAPE"), (b"\xff", "BYTES", (None,), "INVALID_DATATYPE"),
        (b"\0\2", "BOOL", (None,), "INVALID_DATATYPE"),
    ]  # fmt: skip
    for data, datatype, shape, code in refused:
        _, error = attempt(partial(raw, data, datatype, shape))
        assert error is not None
        assert error.code == code
    two = served(("a", "FP32", (None,)), ("b", "FP32", (None,)))
    _, error = attempt(lambda: oip.decode_raw(memoryview(b"1234"), 0, two))
    assert error is not None
    assert error.code == "MISSING_INPUT"


@pytest.mark.parametrize(
    "shape",
    [[16, 2**60 + 2], [4, 2**60 + 2], [2, -5], [], [0], [1] * 10_000, [1.0, 2.0], ["1", 2], [True, 2], [[1], 2],
     [None, 2], [2, 2], [1, 3], [2**63, 2], [10**18, 2]],
    ids=range(15),
)  # fmt: skip
def test_p02_a_shape_that_is_none_or_not_the_datas_is_refused(shape: list[Any]) -> None:
    version = served(("x", "FP32", (None, 2)))
    assert refusal(one(shape=shape, data=[1, 2]), version).code == "INVALID_SHAPE"
    assert refusal(one(shape=shape, data=[[1, 2]]), version).code == "INVALID_SHAPE"
    behind = one(shape=shape, parameters={"binary_data_size": 8})
    assert refusal(behind, version, struct.pack("<2f", 1, 2)).code == "INVALID_SHAPE"


TWO = served(
    ("a", "FP32", (None,)), ("b", "INT8", (None,)), outputs=[("y", "FP32"), ("z", "seq(map(int64,tensor(float)))")]
)
A = {"name": "a", "datatype": "FP32", "shape": [1], "data": [1]}
B = {"name": "b", "datatype": "INT8", "shape": [1], "data": [1]}
A_ALONE = json.dumps({"inputs": [A]}, separators=(",", ":")).encode()
Y = {"name": "y"}
BEHIND = {"name": "a", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}


@pytest.mark.parametrize(
    ("request_", "code", "word"),
    [
        ({"inputs": [A, B | {"datatype": "INT16"}]}, "INVALID_DATATYPE", "INT16"),
        ({"inputs": [A, B | {"datatype": "BF16"}]}, "INVALID_DATATYPE", "INT8"),
        ({"inputs": [A, B | {"datatype": "x" * 9999}]}, "INVALID_DATATYPE", "xxx"),
        ({"inputs": [A, B | {"data": [1.5]}]}, "INVALID_DATATYPE", "fractions"),
        ({"inputs": [A, B | {"data": [128]}]}, "INVALID_DATATYPE", "range"),
        ({"inputs": [A, B | {"data": [True]}]}, "INVALID_DATATYPE", "boolean"),
        ({"inputs": [A, B | {"data": ["1"]}]}, "INVALID_DATATYPE", "string"),
        ({"inputs": [A, B | {"data": [None]}]}, "INVALID_DATATYPE", "null"),
        ({"inputs": [A, B | {"data": [{}]}]}, "INVALID_DATATYPE", "object"),
        ({"inputs": [A | {"data": [1e39]}, B]}, "INVALID_DATATYPE", "range"),
        ({"inputs": [A | {"data": [[1], []]}, B]}, "INVALID_SHAPE", "rectangular"),
        ({"inputs": [A | {"data": [[1]]}, B]}, "INVALID_SHAPE", "[1, 1]"),
        ({"inputs": [A]}, "MISSING_INPUT", "'b'"),
        ({"inputs": []}, "MISSING_INPUT", "'a'"),
        ({"inputs": [A, B, B | {"name": "c"}]}, "UNKNOWN_INPUT", "'c'"),
        ({"inputs": [A, B, B]}, "BAD_REQUEST", "'b'"),
        ({}, "BAD_REQUEST", "inputs"),
        ([], "BAD_REQUEST", "list"),
        (b"7", "BAD_REQUEST", "number"),
        ({"inputs": {"a": A}}, "BAD_REQUEST", "inputs"),
        ({"inputs": ["a"]}, "BAD_REQUEST", "string"),
        ({"inputs": [A, {"name": "b"}]}, "BAD_REQUEST", "datatype"),
        ({"inputs": [A, B | {"name": 5}]}, "BAD_REQUEST", "name"),
        ({"inputs": [A, B | {"shape": 1}]}, "BAD_REQUEST", "shape"),
        ({"inputs": [A, B | {"shape": None}]}, "BAD_REQUEST", "shape"),
        ({"inputs": [A, B | {"data": 1}]}, "BAD_REQUEST", "data"),
        ({"inputs": [A, B | {"data": {}}]}, "BAD_REQUEST", "data"),
        ({"inputs": [A, B | {"data": None}]}, "BAD_REQUEST", "binary_data_size"),
        ({"inputs": [A, B | {"parameters": {"binary_data_size": 1}}]}, "BAD_REQUEST", "either"),
        ({"inputs": [BEHIND, B]}, "BAD_REQUEST", "4"),
        ({"inputs": [BEHIND | {"parameters": {"binary_data_size": -4}}, B]}, "BAD_REQUEST", "-4"),
        ({"inputs": [BEHIND | {"parameters": {"binary_data_size": 4.0}}, B]}, "BAD_REQUEST", "number"),
        ({"inputs": [BEHIND | {"parameters": {"binary_data_size": True}}, B]}, "BAD_REQUEST", "boolean"),
        ({"inputs": [BEHIND | {"parameters": {"binary_data_size": "4"}}, B]}, "BAD_REQUEST", "string"),
        ({"inputs": [BEHIND | {"parameters": [4]}, B]}, "BAD_REQUEST", "parameters"),
        ({"inputs": [A, B], "id": 5}, "BAD_REQUEST", "id"),
        ({"inputs": [A, B], "parameters": 5}, "BAD_REQUEST", "parameters"),
        ({"inputs": [A, B], "parameters": {"binary_data_output": 1}}, "BAD_REQUEST", "binary_data_output"),
        ({"inputs": [A, B], "outputs": "y"}, "BAD_REQUEST", "outputs"),
        ({"inputs": [A, B], "outputs": ["y"]}, "BAD_REQUEST", "output"),
        ({"inputs": [A, B], "outputs": [{}]}, "BAD_REQUEST", "name"),
        ({"inputs": [A, B], "outputs": [{"name": "w"}]}, "INVALID_OUTPUT", "'w'"),
        ({"inputs": [A, B], "outputs": [{"name": "y"}, {"name": "y"}]}, "INVALID_OUTPUT", "'y'"),
        ({"inputs": [A, B], "outputs": [Y | {"parameters": {"binary_data": "yes"}}]}, "BAD_REQUEST", "binary_data"),
        ({"inputs": [A, B], "outputs": [Y | {"parameters": {"classification": 3}}]}, "BAD_REQUEST", "classification"),
        (b'{"inputs":[],"inputs":[]}', "MISSING_INPUT", "'a'"),
        (A_ALONE.replace(b"[1]}", b"[NaN]}"), "INVALID_JSON", "JSON"),
        (A_ALONE.replace(b"[1]}", b"[1e400]}"), "INVALID_NUMBER", "JSON"),
        (A_ALONE.replace(b"[1]}", b"[18446744073709551616]}"), "INVALID_NUMBER", "64"),
        (b'\xef\xbb\xbf{"inputs":[]}', "INVALID_JSON", "JSON"),
    ],
)  # fmt: skip
def test_p03_p04_what_is_wrong_is_told_with_its_field(request_: Any, code: str, word: str) -> None:  # noqa: ANN401 - any JSON
    error = refusal(request_, TWO)
    assert error.code == code
    assert word in error.message


def test_p08_a_name_twice_in_an_object_is_refused() -> None:
    version = served(("x", "FP32", (None,)))
    text = '{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}'
    doubled = [
        ('"shape"', '"shape":[2],"shape"'), ('"data"', '"data":[2],"data"'), ('"name"', '"name":"y","name"'),
        ('{"inputs"', '{"inputs":[],"inputs"'), ('"data"', '"d\\u0061ta":[2],"data"'),
    ]  # fmt: skip
    for place, double in doubled:
        assert refusal(text.replace(place, double, 1).encode(), version).code == "INVALID_JSON"
    assert decode(text.encode(), version).feeds["x"].tolist() == [1]


def test_bytes_short_long_or_of_another_size_are_refused() -> None:
    version = served(("x", "FP32", (None,)), ("s", "BYTES", (None,)))
    x = {"name": "x", "datatype": "FP32", "shape": [2]}
    s = {"name": "s", "datatype": "BYTES", "shape": [2]}
    numbers, strings = struct.pack("<2f", 1, 2), b"\1\0\0\0a\2\0\0\0bc"

    def sized(first: int, second: int) -> dict[str, Any]:
        sizes = ({"parameters": {"binary_data_size": size}} for size in (first, second))
        return {"inputs": [item | size for item, size in zip((x, s), sizes, strict=True)]}

    assert decode(sized(8, 11), version, numbers + strings).feeds["s"].tolist() == ["a", "bc"]
    for tensors_ in (numbers + strings[:-1], numbers + strings + b"!", numbers, b"!"):
        assert refusal(sized(8, 11), version, tensors_).code == "BAD_REQUEST"
    for first, second, tensors_ in (
        (7, 12, numbers + strings), (9, 10, numbers + strings), (0, 19, numbers + strings), (8, 2**62, numbers),
        (8, 12, numbers + strings + b"!"), (8, 10, numbers + strings[:-1]), (8, 7, numbers + strings[:7]),
        (8, 11, numbers + b"\xff\xff\xff\xffa\2\0\0\0bc"),
    ):  # fmt: skip
        assert refusal(sized(first, second), version, tensors_).code in {"INVALID_SHAPE", "BAD_REQUEST"}
    huge = sized(8, 11)
    huge["inputs"][1]["shape"] = [2**62]
    assert refusal(huge, version, numbers + strings).code == "INVALID_SHAPE"
    assert refusal(sized(8, 11), version, numbers + b"\1\0\0\0\xff\2\0\0\0bc").code == "INVALID_DATATYPE"


def test_outputs_that_are_no_tensors_are_left_out_unless_asked_for() -> None:
    assert decode({"inputs": [A, B]}, TWO).outputs == ("y",)
    assert decode({"inputs": [A, B], "outputs": []}, TWO).outputs == ("y",)
    for request, version in (
        ({"inputs": [A, B], "outputs": [{"name": "z"}]}, TWO),
        (one(data=[1, 2]), served(("x", "FP32", (None, 2)), outputs=[("z", "map(string,tensor(float))")])),
    ):
        with pytest.raises(ModelOutputError):
            decode(request, version)
    encoder = decode({"inputs": [A, B]}, TWO).encode
    for output in ([{0: 1.0}], np.array([1j]), np.array(["\ud800"], object)):
        with pytest.raises(ModelOutputError):
            encoder([output])


leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=4)
anything = st.recursive(
    leaves | st.sampled_from(["x", "FP32", "BYTES", "BOOL"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "shape", "data", "parameters", ""]), inner, max_size=4)
    ),
    max_leaves=12,
)
some_input = st.fixed_dictionaries(
    {"name": st.just("x") | anything, "shape": st.just([1]) | anything, "datatype": st.sampled_from(["FP32", "BYTES"])},
    optional={
        "data": st.lists(leaves, max_size=2) | anything,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 9)}) | anything,
    },
)
some_request = st.fixed_dictionaries(
    {"inputs": st.lists(some_input, max_size=2) | anything},
    optional=dict.fromkeys(("id", "parameters", "outputs"), anything),
)


@given(
    some_request | anything | st.binary(max_size=30), st.binary(max_size=9), st.sampled_from(["FP32", "BYTES", "BOOL"])
)
def test_z06_anything_becomes_arrays_of_the_signature_or_a_400(request: object, behind: bytes, datatype: str) -> None:
    version = served(("x", datatype, (None,)))
    decoded, error = attempt(lambda: decode(request, version, behind))
    if decoded is not None:
        assert decoded.feeds["x"].dtype == DTYPES[datatype]
        assert decoded.feeds["x"].ndim == 1
        assert decoded.outputs == ("y",)
    else:
        assert error is not None
        assert error.status == 400
        assert len(error.message) < 1000


@given(
    st.binary(max_size=40),
    st.sampled_from(sorted(DTYPES)),
    st.sampled_from([(), (None,), (2, None), (2, 2), (None, None)]),
)
def test_z06_any_bytes_are_the_input_or_a_400(data: bytes, datatype: str, shape: Shape) -> None:
    decoded, error = attempt(lambda: oip.decode_raw(memoryview(data), 0, served(("x", datatype, shape))))
    if decoded is not None and datatype != "BYTES":
        assert prod(decoded.feeds["x"].shape) * DTYPES[datatype].itemsize == len(data)
    elif error is not None:
        assert error.status == 400
