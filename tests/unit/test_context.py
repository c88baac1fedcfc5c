"""Whose request it is: what of a traceparent is sound, and what is recorded."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbuffet.chassis.context import (
    Contexts,
    Trace,
    context_line,
    header_fields,
    log_fields,
    new_trace,
    read_context,
    read_traceparent,
)
from tests.harness.platform import ROOT

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_sound_traceparent_is_read() -> None:
    assert read_traceparent(f"00-{TRACE}-{SPAN}-01".encode()) == Trace(TRACE, SPAN, sampled=True)
    assert read_traceparent(f"00-{TRACE}-{SPAN}-00".encode()) == Trace(TRACE, SPAN, sampled=False)
    assert read_traceparent(f"00-{TRACE}-{SPAN}-03".encode()) == Trace(TRACE, SPAN, sampled=True)
    # "If a higher version is detected, the implementation SHOULD try to parse it."
    assert read_traceparent(f"01-{TRACE}-{SPAN}-01".encode()) == Trace(TRACE, SPAN, sampled=True)
    assert read_traceparent(f"cc-{TRACE}-{SPAN}-01-what-the-future-brings".encode()) == Trace(TRACE, SPAN, sampled=True)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"cc-{TRACE}-{SPAN}-01more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0x",
        f"00-{TRACE}-{SPAN}-1",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"0-{TRACE}-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
        "x" * 100_000,
    ],
)
def test_one_that_is_not_sound_counts_as_none(given: str) -> None:
    assert read_traceparent(given.encode()) is None
    assert Contexts(None).begin("id", given.encode()).line == b"id"


@given(st.binary(max_size=80))
def test_no_bytes_at_all_make_it_fail(given: bytes) -> None:
    trace = read_traceparent(given)
    assert trace is None or read_traceparent(trace.line()) == trace
    read_context(given)


def test_a_line_is_read_back() -> None:
    trace = new_trace(sampled=True)
    assert read_context(context_line("abc-1", trace)) == ("abc-1", trace)
    assert read_context(context_line("abc-1", None)) == ("abc-1", None)
    assert log_fields(context_line("abc-1", trace)) == {"request_id": "abc-1", "trace_id": trace.trace_id}
    assert log_fields(b"") == {}
    assert header_fields(b"abc-1") == {"X-Request-Id": "abc-1"}
    assert header_fields(context_line("abc-1", trace)) == {
        "X-Request-Id": "abc-1",
        "traceparent": trace.line().decode(),
    }
    child = trace.child()
    assert (child.trace_id, child.sampled) == (trace.trace_id, True)
    assert child.span_id != trace.span_id


def test_without_a_tracer_a_trace_is_passed_on_as_it_came_and_nothing_recorded() -> None:
    line = f"00-{TRACE}-{SPAN}-01".encode()
    asked = Contexts(None).begin("id", line)
    assert (asked.line, asked.span) == (b"id " + line, None)


def test_without_an_endpoint_nothing_of_it_is_imported() -> None:
    services = "inferrer.worker, inferrer.rpc.server, modelhost.app"
    code = f"import sys, {services}; print('mlbuffet.chassis.tracing' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
