"""Reading numbers without objects changes nothing but speed: the same arrays, or the same error, as without it."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbuffet.errors import MLBuffetError
from mlbuffet.manifest import Signature, TensorSpec
from modelhost.codecs import buffet, numbers, oip
from modelhost.codecs.cut import cut, is_sound
from modelhost.codecs.request import Decoded, Served

FLOATS = TensorSpec("x", "FP64", (None,))
Y = (TensorSpec("y", "FP32", (None,)),)
Decoder = Callable[[memoryview, int, Served], Decoded]


@pytest.fixture(scope="module", autouse=True)
def _errors_as_in_a_runner() -> Iterator[None]:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        yield


def outcome(decoder: Decoder, text: bytes, served: Served) -> Any:  # noqa: ANN401 - an error, or what was read
    try:
        decoded = decoder(memoryview(text), 0, served)
    except MLBuffetError as error:
        return type(error), error.message
    feeds = [(name, array.dtype, array.shape, array.tolist()) for name, array in decoded.feeds.items()]
    return feeds, decoded.outputs, decoded.encode([np.zeros(1, np.float32)] * len(decoded.outputs)).pieces


def buffet_without(body: memoryview, split: int, served: Served) -> Decoded:  # noqa: ARG001 - a codec's signature
    return buffet._decode_whole(bytes(body), served)


def oip_without(body: memoryview, split: int, served: Served) -> Decoded:  # noqa: ARG001 - a codec's signature
    return oip._decode_whole(bytes(body), body[:0], served)


def same(text: bytes, served: Served, fast: Decoder, plain: Decoder) -> None:
    expected = outcome(plain, text, served)
    for long_bytes, piece_bytes in ((0, 4), (0, 1 << 16), (1 << 10, 1 << 16)):
        for _ in range(2):  # the second time from memory
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(numbers, "LONG_BYTES", long_bytes)
                patch.setattr(numbers, "PIECE_BYTES", piece_bytes)
                patch.setattr(buffet, "LONG_BYTES", long_bytes)
                assert outcome(fast, text, served) == expected


number = (
    st.integers(-300, 300) | st.floats(width=32, allow_nan=False, allow_infinity=False)
    | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**65), 2**65)
    | st.sampled_from([2**53, 2**53 - 1, -(2**53), 1e16, 65520, 0.0, -0.0])
)  # fmt: skip
odd: st.SearchStrategy[Any] = st.sampled_from([True, False, None, "1", [], {}, "[]", {"a": [1]}])
rectangles = st.lists(st.integers(0, 3), min_size=1, max_size=4).flatmap(
    lambda shape: st.lists(number, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))).map(
        lambda flat: np.array(flat, dtype=object).reshape(shape).tolist()
    )
)
ragged = st.recursive(number | odd, lambda inner: st.lists(inner, max_size=3), max_leaves=8)
values = rectangles | st.lists(number, max_size=6) | st.lists(ragged, max_size=4)
separators = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")])
datatypes = st.sampled_from(["FP32", "FP64", "FP16", "INT8", "INT64", "UINT64", "BOOL", "BYTES"])
axes = st.lists(st.none() | st.integers(0, 3), max_size=4).map(tuple)
spoilt = st.tuples(
    st.integers(0, 200), st.sampled_from([b"[", b"]", b",", b"1", b"-", b'"', b"{", b"}", b" ", b"e", b".", b""])
)


def spoil(text: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    for place, piece in changes:
        at = place % len(text)
        text = text[:at] + piece + text[at + 1 :]
    return text


more_of_buffet = st.fixed_dictionaries(
    {}, optional={"outputs": st.sampled_from(["all", ["y"], [], ["[]"], [1, 2], None])}
)


@given(
    st.dictionaries(st.sampled_from(["a", "b", "[]"]), values, max_size=2) | values, more_of_buffet, separators,
    st.lists(spoilt, max_size=2), datatypes, axes, st.booleans(),
)  # fmt: skip
def test_v1_reads_the_same(  # noqa: PLR0913 - all that may differ
    given_: Any,  # noqa: ANN401 - any JSON
    more: dict[str, Any],
    separator: tuple[str, str],
    changes: list[tuple[int, bytes]],
    datatype: str,
    shape: tuple[int | None, ...],
    outputs_first: bool,  # noqa: FBT001
) -> None:
    request = more | {"values": given_} if outputs_first else {"values": given_} | more
    inputs = [TensorSpec("a", datatype, shape)]
    if isinstance(given_, dict) and len(given_) > 1:
        inputs.append(TensorSpec("b", "FP32", (None,)))
    text = spoil(json.dumps(request, separators=separator).encode(), changes)
    same(text, Served("m", 1, Signature(tuple(inputs), Y)), buffet.decode, buffet_without)


more_of_oip = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["a", "[]", '"', "\\", '"data":[1]']),
        "outputs": st.sampled_from([[], [{"name": "y"}], [{"data": [1, 2]}], [1]]),
        "parameters": st.sampled_from([{"data": [1, 2]}, {"data": []}, {"a": "[]"}]),
    },
)


@given(
    st.lists(values, min_size=1, max_size=2), more_of_oip, separators, st.lists(spoilt, max_size=2), datatypes, axes,
    st.permutations(["name", "datatype", "shape", "data"]), st.booleans(),
)  # fmt: skip
def test_v2_reads_the_same(  # noqa: PLR0913 - all that may differ
    given_: list[Any],
    more: dict[str, Any],
    separator: tuple[str, str],
    changes: list[tuple[int, bytes]],
    datatype: str,
    shape: tuple[int | None, ...],
    order: list[str],
    inputs_first: bool,  # noqa: FBT001
) -> None:
    specs = [TensorSpec("a", datatype, shape), TensorSpec("b", "FP32", (None,))][: len(given_)]
    inputs = []
    for spec, data in zip(specs, given_, strict=True):
        array = np.array(data, dtype=object) if isinstance(data, list) and not any(map(_is_list, data)) else None
        said = list(array.shape) if array is not None else [2] * len(spec.shape)
        item = {"name": spec.name, "datatype": spec.datatype, "shape": said, "data": data}
        inputs.append({name: item[name] for name in order})
    request = {"inputs": inputs} | more if inputs_first else more | {"inputs": inputs}
    text = spoil(json.dumps(request, separators=separator).encode(), changes)
    same(text, Served("m", 1, Signature(tuple(specs), Y)), oip.decode, oip_without)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


@pytest.mark.parametrize(
    "shape", [(3000,), (1, 3000), (1, 1, 3000), (3000, 1), (3, 1000), (2, 3, 500), (10, 10, 30, 1)]
)
def test_a_long_array_becomes_no_objects_whatever_its_shape(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(7).normal(size=shape)
    for text in (orjson.dumps(array.tolist()), json.dumps(array.tolist(), indent=1).encode()):
        found = numbers._array(FLOATS, text)
        assert found is not None
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "text",
    ["[[1,2],[]]", "[[1],2]", "[1,[2]]", "[[1,2],[3]]", "[[[1],[2]],[[3,4]]]", "[[],[]]", "[[],[5]]", "[]",
     "[[1,2],[3,4],[]]", "[1,true]", "[1,null]", '[1,"2"]', "[1,{}]", "[9007199254740992]",
     "[18446744073709551616]", "[1e400]",
     "[01]", "[1", "[1]]", "[1,]", "[1 2]", "[NaN]", "[" * 33 + "1" + "]" * 33, "[" * 2000 + "1" + "]" * 2000],
    ids=range(24),
)  # fmt: skip
def test_what_is_not_plainly_a_rectangle_of_numbers_is_left_to_the_other_parser(text: str) -> None:
    assert numbers._array(FLOATS, text.encode()) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"id":"[1,2]","values":7}',
        '{"values":[1],"id":"[]"}',
        '{"a\\"":[1]}',
        '{"a":"[1,","b":"2]"}',
    ],
)
def test_what_may_stand_in_a_string_is_not_taken_for_an_array(text: str) -> None:
    rest, arrays = cut(text.encode(), b"[")
    assert not arrays or not is_sound(rest, len(arrays))


def test_looking_for_arrays_takes_linear_time_whatever_the_text() -> None:
    for piece in (
        b"[",
        b"[]",
        b'["',
        b'[""',
        b"[{",
        b"[{}",
        b'"data":[',
        b'"data":[]',
        b'"data":["a"],',
        b"[1,2],",
        b"]",
    ):
        text = b'{"values":' + piece * (2_000_000 // len(piece)) + b"}"
        began = time.thread_time()
        for before in (b"[", b'"data"'):
            rest, arrays = cut(text, before)
            is_sound(rest, len(arrays))
        assert time.thread_time() - began < 2


def test_memory_of_what_was_said_around_numbers_is_bounded() -> None:
    served = Served("m", 1, Signature((TensorSpec("x", "FP32", (None,)),), Y))
    for count in range(1000):
        text = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}],"id":"%d"}' % count
        assert oip.decode(memoryview(text), 0, served).feeds["x"] == [1]
    long = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}],"id":"%s"}' % (b"a" * 10_000)
    before = len(oip._plans)
    oip.decode(memoryview(long), 0, served)
    assert len(oip._plans) == before <= 256
