"""What counts as JSON here, held against the standard library's exact arithmetic."""

import json
import time

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbuffet.errors import InvalidJSONError, InvalidNumberError
from mlbuffet.strict_json import count_strings, parse, without_strings
from tests.harness.attempt import attempt

numbers = (
    st.integers(-(2**70), 2**70) | st.sampled_from([2**63, -(2**63) - 1, -(2**63), 2**64 - 1, 2**64, 10**400])
    | st.floats(allow_nan=False, allow_infinity=False)
)  # fmt: skip
texts = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ['"', "\\", '\\"', '",18446744073709551616,"']
)
anything = st.recursive(
    numbers | texts | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [*value, *(leaf for item in value.values() for leaf in leaves(item))]
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]


@given(anything, st.booleans(), st.sampled_from([None, " ", "\t"]))
def test_a_value_comes_back_exactly_or_is_refused_for_a_long_number(
    value: object,
    ascii_only: bool,  # noqa: FBT001
    indent: str | None,
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    whole = [leaf for leaf in leaves(value) if type(leaf) is int]
    parsed, error = attempt(lambda: parse(text))
    if all(-(2**63) <= number < 2**64 for number in whole):
        assert error is None
        assert parsed == value
    else:
        assert isinstance(error, InvalidNumberError)


@given(anything, st.booleans())
def test_strings_are_counted(value: object, ascii_only: bool) -> None:  # noqa: FBT001
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert count_strings(text) == sum(type(leaf) is str for leaf in leaves(value))
    assert without_strings(text).count(b'""') == count_strings(text)


@given(st.binary(max_size=60) | st.text('0123456789.eE+-,:[]{}" \\tn', max_size=40).map(str.encode))
def test_any_bytes_are_what_the_standard_library_reads_or_refused(text: bytes) -> None:
    parsed, error = attempt(lambda: parse(text))
    if error is None:
        assert json.loads(text) == parsed
    else:
        assert isinstance(error, InvalidJSONError)
        assert error.message.isprintable()
        assert len(error.message) < 200


NUMBERS = [
    "9" * 20, "9" * 400, "9" * 4000, "9" * 1_000_000, "-" + "9" * 19, "18446744073709551616", "-9223372036854775809",
    "1E+9999", "1e400", "-1e400", "1e" + "9" * 1_000_000, "0x10", "01", "-01", "00", "0" * 1_000_000, "+1", ".5", "5.",
    "1e", "1e+", "1.2.3", "1_000", "1a", "--1",
]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:24])
def test_p06_what_is_no_number_is_called_so_within_50_ms(number: str) -> None:
    for text in (f"[{number}]", f'{{"a" : {number}, "é": 1}}', f"[1, [\n{number}\n]]"):
        began = time.thread_time()
        with pytest.raises(InvalidNumberError) as caught:
            parse(text.encode())
        assert time.thread_time() - began < 0.05
        assert len(caught.value.message) < 150


@pytest.mark.parametrize(
    ("text", "value"),
    [("-0", 0), ("18446744073709551615", 2**64 - 1), ("-9223372036854775808", -(2**63)),
     ("0.12345678901234567890", 0.12345678901234568), ("99999999999999999999.5", 1e20),
     ("99999999999999999999e0", 1e20),
     ("1e-00000000000000000000001", 0.1),
     ("0." + "1" * 100_000, 0.1111111111111111), ('"99999999999999999999"', "9" * 20), ("1e-9999", 0.0)],
    ids=range(10),
)  # fmt: skip
def test_p06_what_is_a_number_is_taken(text: str, value: object) -> None:
    assert parse(f"[{text}]".encode()) == [value]


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", "[1 2]", "[1", "[1,]", "1 1", "nul", "", "\ufeff1", '"\\ud800"', "'a'"]
)
def test_the_rest_is_no_json(text: str) -> None:
    with pytest.raises(InvalidJSONError) as caught:
        parse(text.encode())
    assert caught.value.code == "INVALID_JSON"


@pytest.mark.parametrize("piece", [b'"', b'\\"', b'"\\\n', b'"\\', b"[", b'{"a":'])
def test_stripping_takes_linear_time_whatever_the_text(piece: bytes) -> None:
    text = piece * 200_000
    began = time.thread_time()
    without_strings(text)
    attempt(lambda: parse(text))
    assert time.thread_time() - began < 2


def test_the_parser_is_no_slower_to_refuse_than_to_read() -> None:
    """Long numbers among many: found by one search, and read one by one only where there are any."""
    values = orjson.dumps([[2**64 - 1 - number, number / 7e5] for number in range(50_000)])
    assert parse(values) == orjson.loads(values)
