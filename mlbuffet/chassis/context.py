"""Whose request it is, from the client through all services: its id, and the trace that it belongs to.

The trace is W3C's, https://www.w3.org/TR/trace-context/. On the data channel both stand in one line, `id` or `id
traceparent`. A traceparent that is not sound counts as none. Nothing but the id goes back to the client: the
specification has no field for the rest.
"""

import os
import random
import re
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mlbuffet.chassis.tracing import Tracer

FIELD = "traceparent"
_SOUND = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_LATER = re.compile(rb"(?!00|ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}-.*", re.DOTALL)
_LENGTH = 55
_SAMPLED = 1
_FIRST_FAILURE = 500
SERVER, INTERNAL = 2, 1  # kinds of spans

# What this thread, or this task, does it for; empty outside of requests.
current_context: ContextVar[bytes] = ContextVar("current_context", default=b"")

_random = random.SystemRandom()


class Trace(NamedTuple):
    """Where a request stands in its trace: the trace, the span that it came from, and whether it is recorded."""

    trace_id: str
    span_id: str
    sampled: bool

    def line(self) -> bytes:
        """As a traceparent."""
        return f"00-{self.trace_id}-{self.span_id}-{self.sampled:02x}".encode()

    def child(self) -> "Trace":
        """A span below."""
        return self._replace(span_id=new_span_id())


class Span(NamedTuple):
    """When something was done for a request, by the monotonic clock in nanoseconds; the trace has the span's own id."""

    trace: Trace
    parent_id: str
    began_ns: int
    ended_ns: int
    kind: int = INTERNAL


def read_traceparent(value: bytes) -> Trace | None:
    """What a traceparent says; None where it is not sound. A later version may say more behind what is known."""
    if not value or not (_SOUND.fullmatch(value) or _LATER.fullmatch(value)):
        return None
    _, trace_id, span_id, flags = value[:_LENGTH].decode("ascii").split("-")
    return Trace(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def new_trace(*, sampled: bool) -> Trace:
    """A trace that begins here."""
    return Trace(os.urandom(16).hex(), new_span_id(), sampled)


def new_span_id() -> str:
    """The id of a new span; never zero."""
    return f"{_random.getrandbits(64) or 1:016x}"


def context_line(request_id: str, trace: Trace | None) -> bytes:
    """What goes along on the data channel."""
    return request_id.encode() if trace is None else b"%b %b" % (request_id.encode(), trace.line())


def read_context(line: bytes) -> tuple[str, Trace | None]:
    """The request's id, and its trace if it has one."""
    request_id, _, trace = line.partition(b" ")
    return request_id.decode("ascii", "replace"), read_traceparent(trace)


def header_fields(line: bytes) -> dict[str, str]:
    """What goes along to a service that is asked by HTTP."""
    request_id, trace = read_context(line)
    return {"X-Request-Id": request_id} | ({FIELD: trace.line().decode()} if trace is not None else {})


def log_fields(line: bytes) -> dict[str, object]:
    """What a log record says of whose request it is about."""
    if not line:
        return {}
    request_id, trace = read_context(line)
    return {"request_id": request_id} if trace is None else {"request_id": request_id, "trace_id": trace.trace_id}


class Asked(NamedTuple):
    """What a service knows of whose request it is: the line to pass on, and its own span where it is recorded."""

    line: bytes
    span: Trace | None
    parent_id: str


class Contexts:
    """Where requests come from, and what is recorded of them, in one process."""

    def __init__(self, tracer: "Tracer | None") -> None:
        self.tracer = tracer

    def begin(self, request_id: str, traceparent: bytes) -> Asked:
        """Take a request; without a tracer its trace is passed on as it came."""
        if self.tracer is None:
            return Asked(context_line(request_id, read_traceparent(traceparent)), None, "")
        trace, parent_id = self.tracer.begin(traceparent)
        recorded = trace if trace is not None and trace.sampled else None
        return Asked(context_line(request_id, trace), recorded, parent_id)

    def end(self, asked: Asked, name: str, began_at: float, status: int, **attributes: str | float) -> None:
        """Record what was done, where it is to be; `began_at` by the monotonic clock in seconds."""
        if asked.span is None or self.tracer is None:
            return
        request_id, _, _ = asked.line.partition(b" ")
        about: dict[str, str | int | float] = {"mlbuffet.request_id": request_id.decode(), **attributes}
        about["http.response.status_code"] = status
        span = Span(asked.span, asked.parent_id, int(began_at * 1e9), time.monotonic_ns(), SERVER)
        self.tracer.add(name, span, about, failed=status >= _FIRST_FAILURE)
