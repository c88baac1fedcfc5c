"""V1's JSON, from any text to arrays or an error of ours, and from arrays back to JSON."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlbuffet.errors import InvalidDatatypeError, InvalidJSONError, InvalidNumberError, ModelOutputError
from mlbuffet.manifest import Signature, TensorSpec
from modelhost.codecs import buffet
from modelhost.codecs.buffet import Wanted, encode
from modelhost.codecs.request import Decoded, Served
from modelhost.codecs.tensors import fit_shape
from modelhost.runtimes.onnx import DTYPES
from tests.harness.attempt import attempt


@pytest.fixture(scope="module", autouse=True)
def _errors_as_in_a_runner() -> Iterator[None]:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        yield


def decode(text: bytes, signature: Signature) -> Decoded:
    return buffet.decode(memoryview(text), 0, Served("m", 1, signature))


def signature(*specs: tuple[str, str, tuple[int | None, ...]]) -> Signature:
    inputs = tuple(TensorSpec(*spec) for spec in specs)
    return Signature(inputs, (TensorSpec("y", "FP32", (None,)), TensorSpec("z", "FP32", (None,))))


SHAPES: list[tuple[int | None, ...]] = [(), (None,), (3,), (None, 2), (None, None), (1, 2), (None, 2, None)]
names = st.sampled_from(["x", "values", "outputs", "a", "é", '"', "\\", ""])
leaves = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5) | st.sampled_from([0, 1, -1, 255, 256, 2**53, 2**63, 0.5, 1e39, 65520])
)  # fmt: skip
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=25
)
requests = st.fixed_dictionaries(
    {"values": anything | st.dictionaries(st.sampled_from(["x", "a"]), anything, max_size=2)},
    optional={"outputs": anything | st.lists(st.sampled_from(["y", "z", "w"]), max_size=3)},
)
signatures = st.lists(
    st.tuples(st.just("x"), st.sampled_from(sorted(DTYPES)), st.sampled_from(SHAPES)), max_size=1
).flatmap(lambda one: st.just(signature(*one)) | st.just(signature(*one, ("a", "FP32", (None, 2)))))


@given(requests | anything, signatures)
def test_any_json_becomes_arrays_or_an_error_of_ours(body: object, taken: Signature) -> None:
    text = orjson.dumps(body)
    decoded, error = attempt(lambda: decode(text, taken))
    if error is not None:
        assert error.status in {400, 422}
        assert len(error.message) < 1000
    if decoded is not None:
        feeds = decoded.feeds
        assert feeds.keys() == {spec.name for spec in taken.inputs}
        for spec in taken.inputs:
            array = feeds[spec.name]
            assert array.dtype == DTYPES[spec.datatype]
            assert array.ndim == len(spec.shape)
            assert all(size in {None, got} for size, got in zip(spec.shape, array.shape, strict=True))
        assert set(decoded.outputs) <= {"y", "z"}
        assert decoded.outputs


@given(st.binary(), signatures)
def test_any_bytes_become_an_error_of_ours(body: bytes, taken: Signature) -> None:
    _, error = attempt(lambda: decode(body, taken))
    assert error is None or error.status in {400, 422}


@given(st.lists(st.integers(-(2**70), 2**70) | st.sampled_from([0.0, 1.0, -3.0, 2.5, 1e18]), max_size=6))
def test_integers_are_exact_or_refused(values: list[int | float]) -> None:
    """What Python's own arithmetic says is the truth; beyond 64 bits no whole number is taken."""
    text = json.dumps({"values": values}).encode()
    for datatype in ("INT8", "UINT8", "INT64", "UINT64"):
        limits = np.iinfo(DTYPES[datatype])
        fits = all(number == int(number) and limits.min <= number <= limits.max for number in values)
        try:
            feeds = decode(text, signature(("x", datatype, (None,)))).feeds
        except InvalidNumberError:
            assert any(type(number) is int and not -(2**63) <= number < 2**64 for number in values)
        except InvalidDatatypeError:
            assert not fits
        else:
            assert fits
            assert feeds["x"].tolist() == [int(number) for number in values]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**64 - 1), max_size=6))
def test_floats_are_rounded_as_ieee_says_or_refused(values: list[float]) -> None:
    text = orjson.dumps({"values": values})
    for datatype in ("FP16", "FP32", "FP64"):
        dtype = DTYPES[datatype]
        with np.errstate(over="ignore"):
            expected = np.array([float(number) for number in values]).astype(dtype)
        try:
            feeds = decode(text, signature(("x", datatype, (None,)))).feeds
        except InvalidDatatypeError:
            assert not np.isfinite(expected).all()
        else:
            assert np.isfinite(expected).all()
            np.testing.assert_array_max_ulp(feeds["x"], expected, 1, dtype)


@given(arrays.arrays(object, arrays.array_shapes(min_dims=0, max_dims=4, max_side=3), elements=st.text(max_size=5)))
def test_strings_come_through_untouched(strings: np.ndarray[Any, Any]) -> None:
    shape: tuple[int | None, ...] = (None,) * strings.ndim
    text = orjson.dumps({"values": {"x": strings.tolist()}})
    decoded = decode(text, signature(("x", "BYTES", shape)))
    assert decoded.feeds["x"].tolist() == strings.tolist()
    assert orjson.loads(b"".join(decoded.encode([decoded.feeds["x"]]).pieces))["values"] == strings.tolist()


numbers = st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint8, np.int64, np.uint64, np.bool_])
tensors = numbers.flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, max_dims=4, max_side=4)))


@given(st.lists(tensors, min_size=1, max_size=3), st.booleans())
def test_any_output_is_valid_json_of_its_own_shape(outputs: list[np.ndarray[Any, Any]], by_name: bool) -> None:  # noqa: FBT001
    labels = tuple(f"out{number}" for number in range(len(outputs)))
    body = b"".join(encode(Wanted(labels, by_name=by_name), outputs, {"labels": ["a"]}).pieces)
    data = json.loads(body, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert data["http_status"]["code"] == 200
    assert data["labels"] == ["a"]
    pairs = zip(labels, outputs, strict=True) if by_name else [("values", outputs[0])]
    found = data["outputs"] if by_name else data
    assert ("outputs" in data) is by_name
    for name, array in pairs:
        flat = np.ravel(np.array(found[name], dtype=object))
        assert len(flat) == array.size
        for got, value in zip(flat, array.ravel().tolist(), strict=True):
            assert got == (value if math.isfinite(value) else None) or array.dtype.kind == "f"
            assert (got is None) == (not math.isfinite(value))
        if array.ndim == 0:
            assert not isinstance(found[name], list)


def test_sequences_and_maps_are_written_and_the_rest_is_the_models_fault() -> None:
    wanted = Wanted(("y",), by_name=False)
    body = b"".join(encode(wanted, [[{0: 0.5, 1: float("nan")}, {"a": 1.0}]]).pieces)
    assert json.loads(body)["values"] == [{"0": 0.5, "1": None}, {"a": 1.0}]
    unwritable: list[Any] = [object(), np.array([1j]), np.array(["2026"], "datetime64[Y]").astype("V8"), ["\ud800"]]
    for output in unwritable:
        with pytest.raises(ModelOutputError):
            encode(wanted, [output])


@pytest.mark.parametrize(
    "text",
    ['{"values": [1], "values": [1]}', '{"values": {"x": [1], "x": [1]}}', '{"values": [1], "v\\u0061lues": [1]}',
     '{"values": [1], "outputs": ["y"], "outputs": "all"}'],
)  # fmt: skip
def test_a_name_twice_in_an_object_is_refused(text: str) -> None:
    with pytest.raises(InvalidJSONError, match="once"):
        decode(text.encode(), signature(("x", "FP32", (None,))))


@given(st.lists(st.integers(0, 3), max_size=5), st.lists(st.none() | st.integers(0, 3), max_size=5))
def test_a_shape_fits_or_is_named(received: list[int], expected: list[int | None]) -> None:
    spec = TensorSpec("x", "FP32", tuple(expected))
    array = np.zeros(received, np.float32)
    same = len(received) == len(expected) and all(
        want in {None, got} for want, got in zip(expected, received, strict=True)
    )
    one = len(received) + 1 == len(expected) and all(
        want in {None, got} for want, got in zip(expected, [1, *received], strict=True)
    )
    fitted, error = attempt(lambda: fit_shape(spec, array))
    assert (fitted is not None) == (same or one)
    if fitted is not None:
        assert fitted.shape == (tuple(received) if same else (1, *received))
    if error is not None:
        assert str(received) in error.message
