import json
import logging

from hypothesis import given
from hypothesis import strategies as st

from mlbuffet.chassis.logs import JsonFormatter

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), lambda inner: st.lists(inner, max_size=3)
)


def written(event: str, **extra: object) -> str:
    record = logging.makeLogRecord({"msg": event, "levelname": "INFO", "created": 0.0, "process": 7, **extra})
    return JsonFormatter("inferrer").format(record)


@given(st.text(), JSON)
def test_a_record_is_one_line_of_json_whatever_is_in_it(text: str, value: object) -> None:
    line = written("event", element=value, why=text)
    assert len(line.splitlines()) == 1
    data = json.loads(line)
    assert (data["element"], data["why"]) == (value, text)
    assert list(data)[:5] == ["time", "level", "service", "pid", "event"]


def test_a_forged_record_stays_a_value() -> None:
    forged = '\r\n{"level":"ERROR","event":"forged"}\u2028\u2029\x85\x9b31m\x1b[31m'
    line = written("echo", element=forged)
    assert json.loads(line)["event"] == "echo"
    assert json.loads(line)["element"] == forged
    assert not set(line) & set("\r\n\u2028\u2029\x85\x9b\x1b")


def test_what_json_does_not_have_is_its_text() -> None:
    assert json.loads(written("event", value={1, 2}))["value"] == "{1, 2}"
    assert json.loads(written("event", value=2 + 1j))["value"] == "(2+1j)"


def test_an_exception_is_told_in_the_same_line() -> None:
    try:
        raise ValueError("a\nb")  # noqa: EM101, TRY003 - two lines on purpose
    except ValueError as error:
        line = written("failed", exc_info=(type(error), error, error.__traceback__))
    assert len(line.splitlines()) == 1
    assert "ValueError: a\nb" in json.loads(line)["traceback"]
