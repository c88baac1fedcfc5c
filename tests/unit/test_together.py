"""Short requests that are read together: each gets what it would get alone, or all are left to be read alone."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbuffet.errors import MLBuffetError
from mlbuffet.manifest import Signature, TensorSpec
from modelhost.codecs import buffet, oip
from modelhost.codecs.request import Answer, Array, Decoded, Served
from modelhost.codecs.together import Outline, read_together, rows_of

X = TensorSpec("x", "FP32", (None, 2))
Y = (TensorSpec("y", "FP32", (None,)),)
SERVED = Served("m", 1, Signature((X,), Y))
Outliner = Callable[[memoryview, Served], Outline | None]
Decoder = Callable[[memoryview, int, Served], Decoded]


@pytest.fixture(scope="module", autouse=True)
def _errors_as_in_a_runner() -> Iterator[None]:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        yield


def outlines_of(outline: Outliner, texts: Sequence[bytes], served: Served) -> list[Outline] | None:
    """The requests cut, if all are and say the same."""
    found = [outline(memoryview(text), served) for text in texts]
    known = [item for item in found if item is not None]
    same = len(known) == len(texts) and len({id(item.plan) for item in known}) == 1
    return known if same else None


def together(outline: Outliner, texts: Sequence[bytes], served: Served) -> list[Decoded] | None:
    """The requests read together, as far as that is done."""
    outlines = outlines_of(outline, texts, served)
    joint = read_together(outlines[0].plan, [item.arrays for item in outlines]) if outlines else None
    return None if joint is None else [joint.some(place, 1) for place in range(len(texts))]


def seen(request: Decoded) -> Any:  # noqa: ANN401 - all there is of it
    feeds = [(name, array.dtype, array.shape, array.tolist()) for name, array in request.feeds.items()]
    return feeds, request.outputs, request.encode([np.zeros(1, np.float32)] * len(request.outputs)).pieces


def holds(outline: Outliner, decode: Decoder, texts: Sequence[bytes], served: Served) -> bool:
    """Check that whatever is read together is what each is alone; tells whether it was read together."""
    found = False
    for _ in range(2):  # the second time guessed
        requests = together(outline, texts, served)
        if requests is not None:
            assert [seen(request) for request in requests] == [
                seen(decode(memoryview(text), 0, served)) for text in texts
            ]
        found = found or requests is not None
    return found


@pytest.mark.parametrize(
    "bodies",
    [
        ["[[1, 2]]", "[[3, 4]]", "[[5.5, 6]]"],
        ["[[1,2],[3,4]]", "[[5,6],[7,8]]"],
        ["[1, 2]", "[3e0,\n-4]", "[ 5 , 6 ]"],
    ],
)
def test_requests_of_one_shape_are_read_together(bodies: list[str]) -> None:
    assert holds(buffet.outline, buffet.decode, [f'{{"values": {body}}}'.encode() for body in bodies], SERVED)
    rows = [np.atleast_2d(json.loads(body)).shape for body in bodies]
    inputs = [
        f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":{list(shape)},"data":{body}}}]}}'
        for body, shape in zip(bodies, rows, strict=True)
    ]
    assert holds(oip.outline, oip.decode, [text.encode() for text in inputs], SERVED)


def test_every_input_of_several_gets_its_own() -> None:
    served = Served("m", 1, Signature((TensorSpec("a", "FP32", (None,)), TensorSpec("b", "INT64", (None, 2))), Y))
    texts = [b'{"values":{"b":[[%d,2]],"a":[%d.5]},"outputs":"all"}' % (n, n) for n in range(5)]
    assert holds(buffet.outline, buffet.decode, texts, served)


@pytest.mark.parametrize(
    "bodies",
    [
        ["[1,2],[3,4]", "[5,6],[7,8]"],
        ["[]][[]", "[]][[]"],
        ["[[1,2]]", "[[1,2],[3,4]]"],  # more rows
        ["[[1,2]]", "[[1,true]]"],
        ["[[1,2]]", "[[1,null]]"],
        ['["1","2"]', '["1","2"]'],
        ["[[1,2]]", "[[1e39,2]]"],  # beyond the datatype
        ["[[1,2]]", "[[9007199254740993,2.5]]"],  # where a float64 would round
        ["[[1,2]]", "[[18446744073709551616,2]]"],
        ["[[1,2,3]]", "[[1,2,3]]"],  # not the model's shape
        ["[[],[]]", "[[],[]]"],
        ["[[01,2]]", "[[1,2]]"],
        ["[[1,2]]", "[[1,]]"],
        ["[[1 2]]", "[[1 2]]"],
    ],
)
def test_what_is_not_plainly_right_and_of_one_shape_is_read_alone(bodies: list[str]) -> None:
    texts = [f'{{"values":{body}}}'.encode() for body in bodies]
    assert together(buffet.outline, [b'{"values":[[1,2]]}'] * 2, SERVED)  # so that a guess is at hand
    assert together(buffet.outline, texts, SERVED) is None


def test_inputs_that_are_not_as_long_as_one_another_are_read_alone() -> None:
    served = Served("m", 1, Signature((TensorSpec("a", "FP32", (None,)), TensorSpec("b", "FP32", (None,))), Y))
    for b, read in (("[3,4]", True), ("[3]", False)):
        assert (
            together(buffet.outline, [f'{{"values":{{"a":[1,2],"b":{b}}}}}'.encode()] * 2, served) is not None
        ) == read


@pytest.mark.parametrize(
    ("shape", "bodies"),
    [
        ((None, 1), ["[[1]", "[2]]", "[[5],[6]],[[7],[8]]"]),  # brackets that make up for one another
        ((None,), ["5", "6"]),
    ],
)
def test_nothing_is_borrowed_from_a_neighbour(shape: tuple[int | None, ...], bodies: list[str]) -> None:
    served = Served("m", 1, Signature((TensorSpec("x", "FP32", shape),), Y))
    good = "[" * len(shape) + "1" + "]" * len(shape)
    assert together(buffet.outline, [f'{{"values":{good}}}'.encode()] * 2, served)
    assert together(buffet.outline, [f'{{"values":{body}}}'.encode() for body in bodies], served) is None


def test_a_guess_is_of_the_version_that_is_served() -> None:
    texts = [b'{"values":[[1,2]]}'] * 2
    other = Served("m", 2, Signature((TensorSpec("z", "INT8", (None, 2)),), Y))
    for served, name in ((SERVED, "x"), (other, "z"), (SERVED, "x")):
        requests = together(buffet.outline, texts, served)
        assert requests is not None
        assert [list(request.feeds) for request in requests] == [[name]] * 2


def test_a_request_with_bytes_behind_it_has_no_outline() -> None:
    served = Served("m", 1, Signature((X, TensorSpec("b", "FP32", (None,))), Y))
    binary = '{"name":"b","datatype":"FP32","shape":[0],"parameters":{"binary_data_size":0}}'
    text = f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}},{binary}]}}'
    assert oip.outline(memoryview(text.encode()), served) is None


INFER = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]%b}'


def whole(answers: Sequence[Answer]) -> list[tuple[bytes, int]]:
    return [(b"".join(answer.pieces), answer.split) for answer in answers]


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 3), (5, 2, 3), (5, 0), (5, 2, 1, 2)])
@pytest.mark.parametrize("datatype", ["f4", "f8", "f2", "i1", "i8", "u8", "?"])
@pytest.mark.parametrize(
    ("outline", "text"),
    [
        (buffet.outline, b'{"values":[[1,2]]}'),
        (oip.outline, INFER % b""),
        (oip.outline, INFER % b',"parameters":{"binary_data_output":true}'),
        (oip.outline, INFER % b',"outputs":[{"name":"z","parameters":{"binary_data":true}},{"name":"y"}]'),
    ],
)
def test_answers_made_together_are_those_made_alone(
    outline: Outliner, text: bytes, shape: tuple[int, ...], datatype: str
) -> None:
    served = Served("m", 1, Signature((X,), (*Y, TensorSpec("z", "FP32", (None,)))))
    rng = np.random.default_rng(7)
    output = np.abs(rng.normal(size=shape) * 100).astype(datatype)
    if output.dtype.kind == "f" and output.size:
        output.flat[0] = np.nan
    requests = together(outline, [text] * 5, served)
    assert requests is not None
    request = requests[0]
    assert request.encode_rows is not None
    outputs = [output, output[::-1]][: len(request.outputs)]
    alone = [request.encode([array[row : row + 1] for array in outputs]) for row in range(5)]
    made = request.encode_rows(outputs)
    if output.size or b"binary" not in text:
        assert whole(made) == whole(alone)
    else:
        assert not made


@pytest.mark.parametrize(
    "output", [np.array(["a", "b"], dtype=object), [{1: 0.5}, {1: 0.5}], np.float32(1), np.array(["a", "b"])]
)
def test_what_is_no_rows_of_numbers_is_answered_one_by_one(output: Any) -> None:  # noqa: ANN401 - whatever a model gives
    assert not rows_of(output)


@pytest.mark.parametrize(
    ("outline", "text", "output"),
    [
        (buffet.outline, b'{"values":[[1,2]],"outputs":"all"}', np.zeros(2, np.float32)),
        (oip.outline, INFER % b',"parameters":{"binary_data_output":true}', np.array(["a", "b"], dtype=object)),
    ],
)
def test_outputs_by_name_and_strings_as_bytes_are_answered_one_by_one(
    outline: Outliner, text: bytes, output: Array
) -> None:
    requests = together(outline, [text] * 2, SERVED)
    assert requests is not None
    assert requests[0].encode_rows is not None
    assert not requests[0].encode_rows([output])


number = (
    st.integers(-9, 9) | st.floats(width=32, allow_nan=False, allow_infinity=False)
    | st.sampled_from([2**53, -(2**53) - 1, 2**63, -(2**63), 1e16, 65520, 0.1, -0.0])
)  # fmt: skip
shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3)
datatypes = st.sampled_from(["FP32", "FP64", "FP16", "INT8", "INT64", "UINT64", "BOOL", "BYTES"])
spoilt = st.tuples(st.integers(0, 60), st.sampled_from([b"[", b"]", b",", b"1", b"-", b'"', b"}", b" ", b"e", b""]))


@st.composite
def bodies_of(draw: st.DrawFn, shape: list[int]) -> str:
    """Numbers of a shape, now and then with something wrong."""
    count = int(np.prod(shape))
    flat = np.array(draw(st.lists(number, min_size=count, max_size=count)), dtype=object)
    text = json.dumps(flat.reshape(shape).tolist(), separators=draw(st.sampled_from([(",", ":"), (", ", ": ")])))
    for place, piece in draw(st.lists(spoilt, max_size=1)):
        at = place % len(text)
        text = text[:at] + piece.decode() + text[at + 1 :]
    return text


@given(st.data(), shapes, datatypes, st.integers(2, 4), st.booleans())
def test_together_is_as_alone(
    data: st.DataObject,
    shape: list[int],
    datatype: str,
    count: int,
    v2: bool,  # noqa: FBT001
) -> None:
    served = Served("m", 1, Signature((TensorSpec("x", datatype, (None, *shape[1:])),), Y))
    bodies = [data.draw(bodies_of(shape)) for _ in range(count)]
    if v2:
        opening = f'{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{json.dumps(shape)},"data":'
        texts = [f"{opening}{item}}}]}}".encode() for item in bodies]
        outline, decode = oip.outline, oip.decode
    else:
        texts = [f'{{"values":{item}}}'.encode() for item in bodies]
        outline, decode = buffet.outline, buffet.decode
    try:
        holds(outline, decode, texts, served)
    except MLBuffetError as error:
        pytest.fail(f"read together was what alone is refused: {error.message}")
