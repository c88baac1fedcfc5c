"""Values are converted only without loss, for every datatype that a model can take."""

from collections.abc import Iterator

import numpy as np
import pytest

from modelhost.runtimes.onnx import DTYPES
from tests.harness.onnx_models import identity
from tests.harness.platform import RunningPlatform
from tests.harness.zoo import DATATYPES, zoo_platform

INTEGERS = sorted(name for name in DATATYPES if "INT" in name)
FLOATS = ("FP16", "FP32", "FP64")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    models = {name: identity(kind, ["N"]) for name, kind in DATATYPES.items()}
    with zoo_platform(tmp_path_factory.mktemp("zoo"), models, modelhosts=1, workers=1) as platform:
        yield platform


def given(zoo: RunningPlatform, datatype: str, values: object) -> object:
    """What comes back: the values, or the error's code and message."""
    answer = zoo.predict(datatype, {"x": values})
    data = answer.json()
    if answer.status_code == 200:
        return data["values"]
    assert answer.status_code == 400, data
    assert "'x'" in data["error"]["message"] or data["error"]["code"] == "INVALID_NUMBER"
    return data["error"]["code"]


@pytest.mark.parametrize("datatype", INTEGERS)
def test_whole_numbers_come_back_exactly(datatype: str, zoo: RunningPlatform) -> None:
    limits = np.iinfo(DTYPES[datatype])
    for values in ([limits.min], [limits.max], [limits.min, limits.max], [0, 1, limits.max - 1], []):
        assert given(zoo, datatype, values) == values
    assert given(zoo, datatype, [5.0, -0.0, 1e2]) == [5, 0, 100]
    assert given(zoo, datatype, 7) == [7]


@pytest.mark.parametrize("datatype", INTEGERS)
def test_whole_numbers_are_never_rounded_or_wrapped(datatype: str, zoo: RunningPlatform) -> None:
    limits = np.iinfo(DTYPES[datatype])
    beyond = [
        [limits.max + 1],
        [limits.min - 1],
        [float(2 * limits.max + 2)],
        [1e300, 0],
        [limits.max + 1, -1],
    ]
    fractions = [[0.5], [1, 2.000001], [-1e-9], [2, 1e-300]]
    others: list[object] = [[True], [1, False], ["1"], [None], [{}], "1", True, None, [2, "x" * 1000]]
    for values in (*beyond, *fractions, *others):
        # By what JSON has written: a float as large is no whole number beyond 64 bits.
        is_long = isinstance(values, list) and any(
            type(item) is int and item in {2**64, -(2**63) - 1} for item in values
        )
        assert given(zoo, datatype, values) == ("INVALID_NUMBER" if is_long else "INVALID_DATATYPE"), values
    for values in ([[1]], [[1], 2], [[1, 2], [3]]):
        assert given(zoo, datatype, values) == "INVALID_SHAPE", values


def test_long_integers_are_exact_even_among_floats(zoo: RunningPlatform) -> None:
    odd = 2**53 + 1
    assert given(zoo, "INT64", [odd, -odd]) == [odd, -odd]
    assert given(zoo, "INT64", [odd, 1.0, -odd]) == [odd, 1, -odd]
    assert given(zoo, "UINT64", [2**64 - 1, 1.0, odd]) == [2**64 - 1, 1, odd]
    assert given(zoo, "UINT64", [2**63, 0]) == [2**63, 0]
    assert given(zoo, "INT64", [1e18]) == [10**18]
    assert given(zoo, "INT64", [9223372036854775808.0]) == "INVALID_DATATYPE"
    assert given(zoo, "INT64", [-(2**63), 1.0]) == [-(2**63), 1]
    assert given(zoo, "UINT64", [18446744073709551616.0]) == "INVALID_DATATYPE"


@pytest.mark.parametrize("datatype", FLOATS)
def test_floats_are_rounded_to_their_type_and_no_further(datatype: str, zoo: RunningPlatform) -> None:
    dtype = DTYPES[datatype]
    limits = np.finfo(dtype)
    values = [0.0, -0.0, 1, 0.1, -1 / 3, float(limits.max), float(limits.min), float(limits.tiny), 1e-300, 2049, 65504]
    returned = given(zoo, datatype, values)
    assert np.array(returned, dtype).tobytes() == np.array(values, dtype).tobytes()
    wrong: list[object] = [[True], ["1.5"], [None], [{}], "x", [1.5, False]]
    for others in wrong:
        assert given(zoo, datatype, others) == "INVALID_DATATYPE", others
    assert given(zoo, datatype, []) == []


@pytest.mark.parametrize(
    ("datatype", "number"), [("FP16", 65520), ("FP16", -70000.0), ("FP32", 1e39), ("FP32", -1e300)]
)
def test_floats_beyond_their_range_are_refused(datatype: str, number: float, zoo: RunningPlatform) -> None:
    assert given(zoo, datatype, [0, number]) == "INVALID_DATATYPE"


def test_booleans_and_strings_are_only_themselves(zoo: RunningPlatform) -> None:
    assert given(zoo, "BOOL", [True, False]) == [True, False]
    assert given(zoo, "BOOL", []) == []
    assert given(zoo, "BOOL", values=True) == [True]
    wrong: list[object] = [[1], [0, True], [1.0], ["true"], [None], [True, "x" * 1000], 1, "true", [{}]]
    for values in wrong:
        assert given(zoo, "BOOL", values) == "INVALID_DATATYPE", values
    assert given(zoo, "BYTES", ["a", ""]) == ["a", ""]
    assert given(zoo, "BYTES", "a") == ["a"]
    assert given(zoo, "BYTES", []) == []
    for values in ([1], ["a", 1], [True], [None], 5, [{}], {}):
        assert given(zoo, "BYTES", values) == "INVALID_DATATYPE", values
    for values in ([["a"], "b"], [["a", "b"]], [[["a"]]]):
        assert given(zoo, "BYTES", values) == "INVALID_SHAPE", values
