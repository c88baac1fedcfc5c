"""The gRPC codec: raw and typed contents give the same arrays, and whatever else comes is a 400."""

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbuffet.errors import (
    BadRequestError,
    InvalidDatatypeError,
    InvalidOutputError,
    InvalidShapeError,
    MissingInputError,
    MLBuffetError,
    ModelOutputError,
    UnknownInputError,
)
from mlbuffet.manifest import Signature, TensorSpec
from mlbuffet.oip.inference_pb2 import ModelInferRequest, ModelInferResponse
from modelhost.codecs import oip
from modelhost.codecs.oip_grpc import decode
from modelhost.codecs.request import Answer, Decoded, Served
from modelhost.runtimes.onnx import DTYPES

TYPED = {"BOOL": "bool", "INT64": "int64", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64"}


def served(datatype: str = "FP32", *shape: int | None) -> Served:
    """A model that gives what it takes."""
    return Served("m", 3, Signature((TensorSpec("x", datatype, shape),), (TensorSpec("y", datatype, shape),)))


def read(request: ModelInferRequest | bytes, model: Served) -> Decoded:
    body = request if isinstance(request, bytes) else request.SerializeToString()
    return decode(memoryview(body), 0, model)


def answered(answer: Answer) -> ModelInferResponse:
    assert answer.split == 0
    response: ModelInferResponse = ModelInferResponse.FromString(b"".join(answer.pieces))
    return response


def raw(datatype: str, shape: list[int], data: bytes, name: str = "x") -> ModelInferRequest:
    tensor = ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    return ModelInferRequest(model_name="m", inputs=[tensor], raw_input_contents=[data])


def typed(datatype: str, shape: list[int], values: list[Any]) -> ModelInferRequest:
    field = TYPED.get(datatype) or ("bytes" if datatype == "BYTES" else datatype.rstrip("123468").lower())
    tensor = ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=shape)
    getattr(tensor.contents, f"{field}_contents").extend(values)
    return ModelInferRequest(model_name="m", inputs=[tensor])


def samples(datatype: str) -> np.ndarray[Any, Any]:
    dtype = DTYPES[datatype]
    if dtype.kind == "O":
        return np.array([["", "a\0b"], ["ä€😀", "x" * 300]], dtype=object)
    if dtype.kind == "b":
        return np.array([[True, False], [False, True]])
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        return np.array([[0.1, -0.0], [limits.max, limits.smallest_subnormal]], dtype)
    return np.array([[0, 1], [np.iinfo(dtype).min, np.iinfo(dtype).max]], dtype)


def as_bytes(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype.kind != "O":
        return array.tobytes()
    texts = [text.encode() for text in array.ravel()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_goes_in_and_out_raw(datatype: str) -> None:
    array = samples(datatype)
    request = raw(datatype, [2, 2], as_bytes(array))
    request.id = "i"
    decoded = read(request, served(datatype, None, 2))
    np.testing.assert_array_equal(decoded.feeds["x"], array)
    assert decoded.feeds["x"].dtype == DTYPES[datatype]
    answer = answered(decoded.encode([array]))
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "i")
    assert [(item.name, item.datatype, list(item.shape)) for item in answer.outputs] == [("y", datatype, [2, 2])]
    assert list(answer.raw_output_contents) == [as_bytes(array)]


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "FP16"])
def test_typed_contents_are_the_raw_ones(datatype: str) -> None:
    array = samples(datatype)
    values = [text.encode() for text in array.ravel()] if array.dtype.kind == "O" else array.ravel().tolist()
    decoded = read(typed(datatype, [2, 2], values), served(datatype, None, 2))
    expected = read(raw(datatype, [2, 2], as_bytes(array)), served(datatype, None, 2))
    np.testing.assert_array_equal(decoded.feeds["x"], expected.feeds["x"])
    assert decoded.feeds["x"].dtype == expected.feeds["x"].dtype


def test_nan_and_infinities_are_what_they_are_in_bytes() -> None:
    array = np.array([np.nan, np.inf, -np.inf], np.float32)
    decoded = read(raw("FP32", [3], array.tobytes()), served("FP32", None))
    assert list(answered(decoded.encode([decoded.feeds["x"]])).raw_output_contents) == [array.tobytes()]


@pytest.mark.parametrize("shape", [(0, 2), (1, 0, 4), (3, 2, 1)])
def test_empty_and_strided_outputs(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)[:, ::-1]
    model = served("FP32", *[None] * len(shape))
    decoded = read(raw("FP32", list(shape), array.tobytes()), model)
    assert list(answered(decoded.encode([array])).raw_output_contents) == [array.tobytes()]


# Rows P02, P03, P06, P07: what is wrong is a 400 that names it --------------------------------------------------------

FOUR = bytes(16)
SHAPES = [[16, 2**60 + 2], [4, 2**60 + 2], [2, -5], [], [0], [1] * 10_000, [2**63 - 1] * 3, [5], [2, 3], [1, 4, 1]]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: str(shape[:4]))
@pytest.mark.parametrize(
    "make", [lambda shape: raw("FP32", shape, FOUR), lambda shape: typed("FP32", shape, [0.0] * 4)]
)
def test_p02_a_wrong_shape(make: Any, shape: list[int]) -> None:  # noqa: ANN401 - a lambda
    with pytest.raises(InvalidShapeError, match="'x'"):
        read(make(shape), served("FP32", None, 4))


@pytest.mark.parametrize("shape", [[2**62, 0], [0, 2**62]])
def test_p02_nothing_of_an_impossible_size(shape: list[int]) -> None:
    for request in (raw("FP32", shape, b""), typed("FP32", shape, [])):
        with pytest.raises(InvalidShapeError, match="'x'"):
            read(request, served("FP32", None, None))
    assert read(raw("FP32", [0, 4], b""), served("FP32", None, 4)).feeds["x"].shape == (0, 4)


@pytest.mark.parametrize("size", [0, 1, 15, 17, 20, 32])
def test_p02_raw_bytes_of_another_size(size: int) -> None:
    with pytest.raises(InvalidShapeError, match="'x'"):
        read(raw("FP32", [1, 4], bytes(size)), served("FP32", None, 4))


def two() -> Served:
    inputs = (TensorSpec("a", "FP32", (None,)), TensorSpec("b", "FP32", (None,)))
    return Served("m", 1, Signature(inputs, (TensorSpec("y", "FP32", (None,)), TensorSpec("z", "FP32", (None,)))))


def both(*names: str, raws: int = -1, outputs: tuple[str, ...] = ()) -> ModelInferRequest:
    count = len(names) if raws < 0 else raws
    request = ModelInferRequest(model_name="m", raw_input_contents=[bytes(4)] * count)
    for name in names:
        request.inputs.add(name=name, datatype="FP32", shape=[1])
    for name in outputs:
        request.outputs.add(name=name)
    return request


P03 = [
    (both("a", "b", "c"), UnknownInputError, "'c'"),
    (both("a"), MissingInputError, "'b'"),
    (both("a", "a"), BadRequestError, "'a'"),
    (both(), MissingInputError, "'a', 'b'"),
    (both("a", "b", raws=1), BadRequestError, "raw_input_contents"),
    (both("a", "b", raws=3), BadRequestError, "raw_input_contents"),
    (both("a", "b", raws=10_000), BadRequestError, "raw_input_contents"),
    (both("a", "b", raws=0), InvalidShapeError, "'a'"),
    (both("a", "b", outputs=("y", "y")), InvalidOutputError, "'y'"),
    (both("a", "b", outputs=("q",)), InvalidOutputError, "'q'"),
]


@pytest.mark.parametrize(("request_", "error", "named"), P03)
def test_p03_what_is_missing_or_too_much(request_: ModelInferRequest, error: type[MLBuffetError], named: str) -> None:
    with pytest.raises(error, match=named):
        read(request_, two())


def test_p03_raw_and_typed_contents_are_not_mixed() -> None:
    request = both("a", "b")
    request.inputs[1].contents.fp32_contents.append(1)
    with pytest.raises(BadRequestError, match="'b'"):
        read(request, two())
    del request.raw_input_contents[:]
    with pytest.raises(InvalidShapeError, match="'a'"):
        read(request, two())


@pytest.mark.parametrize("datatype", ["", "fp32", "FP64", "INT32", "BF16", "x" * 10_000])
def test_p03_another_datatype(datatype: str) -> None:
    with pytest.raises(InvalidDatatypeError, match="'x'") as caught:
        read(raw(datatype, [1, 4], FOUR), served("FP32", None, 4))
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("INT16", -32769), ("UINT8", 256), ("UINT16", 65536)])
def test_p06_a_number_beyond_the_datatypes_range(datatype: str, value: int) -> None:
    with pytest.raises(InvalidDatatypeError, match="'x'"):
        read(typed(datatype, [1], [value]), served(datatype, None))


def test_typed_contents_of_another_datatype() -> None:
    for datatype in ("FP64", "FP16", "BYTES", "INT8"):
        request = typed("FP32", [1], [1.0])
        request.inputs[0].datatype = datatype
        with pytest.raises(InvalidDatatypeError, match="'x'"):
            read(request, served(datatype, None))


@pytest.mark.parametrize("data", [b"\2", b"\xff"])
def test_a_boolean_is_0_or_1(data: bytes) -> None:
    with pytest.raises(InvalidDatatypeError, match="'x'"):
        read(raw("BOOL", [1], data), served("BOOL", None))


@pytest.mark.parametrize("data", [b"", b"\1\0\0", b"\2\0\0\0a", b"\xff\xff\xff\xffa", b"\1\0\0\0ab", b"\0" * 8])
def test_p07_strings_that_do_not_fill_their_bytes(data: bytes) -> None:
    with pytest.raises(InvalidShapeError, match="'x'"):
        read(raw("BYTES", [1], data), served("BYTES", None))


@pytest.mark.parametrize("text", [b"\xff", b"\xed\xa0\x80", b"\xc0\x80"])
def test_p07_strings_that_are_no_text(text: bytes) -> None:
    for request in (raw("BYTES", [1], bytes((len(text), 0, 0, 0)) + text), typed("BYTES", [1], [text])):
        with pytest.raises(InvalidDatatypeError, match="'x'"):
            read(request, served("BYTES", None))


@pytest.mark.parametrize("parameter", ["shared_memory_region", "classification"])
def test_extensions_that_are_not_served_are_refused(parameter: str) -> None:
    request = raw("FP32", [1], bytes(4))
    request.outputs.add(name="y").parameters[parameter].int64_param = 1
    with pytest.raises(BadRequestError, match=parameter):
        read(request, served("FP32", None))


def test_an_output_that_is_no_tensor() -> None:
    signature = Signature((TensorSpec("x", "FP32", (None,)),), (TensorSpec("y", "seq(map(int64,float))", ()),))
    with pytest.raises(ModelOutputError, match="tensor"):
        read(raw("FP32", [1], bytes(4)), Served("m", 1, signature))
    decoded = read(raw("FP32", [1], bytes(4)), served("FP32", None))
    with pytest.raises(ModelOutputError, match="'y'"):
        decoded.encode([[{1: 0.5}]])


# Hostile messages ---------------------------------------------------------------------------------------------------

WHOLE = raw("FP32", [1, 4], FOUR).SerializeToString()


@pytest.mark.parametrize("end", range(1, len(WHOLE)))
def test_a_message_that_is_cut_off(end: int) -> None:
    with pytest.raises(BadRequestError):
        read(WHOLE[:end], served("FP32", None, 4))


HOSTILE = {
    "wrong wire type": b"\x28\x01" * 100,
    "group": b"\x2b" * 50_000,
    "endless varint": b"\x2a" + b"\xff" * 50,
    "deep": b"\x2a\x04\x22\x02\x12\x00" * 100,
    "a million inputs": b"\x2a\x00" * 1_000_000,
    "a million outputs": b"\x32\x00" * 1_000_000,
    "a million raw contents": b"\x3a\x00" * 1_000_000,
    "a million parameters": b"\x22\x00" * 1_000_000,
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_p08_a_hostile_message(body: bytes) -> None:
    with pytest.raises(BadRequestError) as caught:
        read(body, served("FP32", None, 4))
    assert len(caught.value.message) < 500


@given(st.binary(max_size=300))
def test_any_bytes_are_a_400(body: bytes) -> None:
    with pytest.raises(BadRequestError):
        read(body, served("FP32", None, 4))


@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=4), st.booleans())
def test_a_message_with_a_few_bytes_changed_is_read_or_a_400(at: int, noise: bytes, insert: bool) -> None:  # noqa: FBT001
    body = WHOLE[:at] + noise + WHOLE[at if insert else at + len(noise) :]
    try:
        decoded = read(body, served("FP32", None, 4))
    except BadRequestError:
        return
    assert decoded.feeds["x"].shape[1:] == (4,)


# As JSON ------------------------------------------------------------------------------------------------------------


def as_json(datatype: str, array: np.ndarray[Any, Any], **more: object) -> bytes:
    tensor = {"name": "x", "datatype": datatype, "shape": array.shape, "data": array.tolist()}
    return orjson.dumps({"id": "i", "inputs": [tensor], **more})


@pytest.mark.parametrize("datatype", DTYPES)
def test_json_and_grpc_give_equal_arrays_and_equal_answers(datatype: str) -> None:
    array, model = samples(datatype), served(datatype, None, 2)
    request = raw(datatype, [2, 2], as_bytes(array))
    request.id = "i"
    here = read(request, model)
    there = oip.decode(memoryview(as_json(datatype, array, parameters={"binary_data_output": True})), 0, model)
    np.testing.assert_array_equal(here.feeds["x"], there.feeds["x"])
    assert here.feeds["x"].dtype == there.feeds["x"].dtype
    assert here.outputs == there.outputs
    ours = answered(here.encode([array]))
    theirs = there.encode([array])
    whole = b"".join(theirs.pieces)
    told = orjson.loads(whole[: theirs.split])
    assert (ours.model_name, ours.model_version, ours.id) == (told["model_name"], told["model_version"], told["id"])
    for output, other in zip(ours.outputs, told["outputs"], strict=True):
        assert (output.name, output.datatype) == (other["name"], other["datatype"])
        assert list(output.shape) == other["shape"]
    assert b"".join(ours.raw_output_contents) == whole[theirs.split :]


WRONG: dict[str, dict[str, Any]] = {
    "shape": {"shape": [2, 3]},
    "rank": {"shape": [1] * 9},
    "negative": {"shape": [-1, 4]},
    "impossible": {"shape": [0, 2**62]},
    "datatype": {"datatype": "FP64"},
    "no datatype": {"datatype": ""},
    "name": {"name": "q"},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_json_and_grpc_refuse_alike(changes: dict[str, Any]) -> None:
    model = served("FP32", None, 4)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0] * 4} | changes
    with pytest.raises(MLBuffetError) as there:
        oip.decode(memoryview(orjson.dumps({"inputs": [tensor]})), 0, model)
    with pytest.raises(MLBuffetError) as here:
        read(raw(tensor["datatype"], tensor["shape"], FOUR, tensor["name"]), model)
    assert (type(here.value), here.value.message) == (type(there.value), there.value.message)


@pytest.mark.parametrize("names", [["y", "y"], ["q"], ["y", "q"]])
def test_json_and_grpc_refuse_outputs_alike(names: list[str]) -> None:
    model, request = served("FP32", None, 4), raw("FP32", [1, 4], FOUR)
    for name in names:
        request.outputs.add(name=name)
    body = as_json("FP32", np.ones((1, 4)), outputs=[{"name": name} for name in names])
    with pytest.raises(MLBuffetError) as there:
        oip.decode(memoryview(body), 0, model)
    with pytest.raises(MLBuffetError) as here:
        read(request, model)
    assert (type(here.value), here.value.message) == (type(there.value), there.value.message)
