"""Sends spans to an OpenTelemetry collector: OTLP over HTTP in its JSON form, with the standard library alone.

https://opentelemetry.io/docs/specs/otlp/#otlphttp. A span is a tuple in a bounded queue; a thread sends what is there
every second. A collector that does not keep up, or is not there, costs spans and never a request. Without an endpoint
there is no tracer, and nothing of this is done.
"""

import http.client
import logging
import os
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import orjson

from mlbuffet.chassis.context import Span, Trace, new_trace, read_traceparent

log = logging.getLogger(__name__)

_ERROR = 2
_MOST = 8192
_BATCH = 512
_PAUSE_S = 1.0
_TIMEOUT_S = 5.0
_OK = 200
_PATH = "/v1/traces"


Attributes = Mapping[str, str | int | float]


class _Told(NamedTuple):
    name: str
    span: Span
    attributes: Attributes
    failed: bool


class Tracer:
    """The spans of one process, and who they are sent to."""

    def __init__(self, endpoint: str, service: str, share: float = 0.0) -> None:
        """`endpoint` is http(s)://host:port; `share` of the requests are recorded that come without a trace."""
        self._url = urlsplit(endpoint)
        self._share = share
        self._resource: Attributes = {"service.name": service, "process.pid": os.getpid()}
        self._spans: deque[_Told] = deque()
        self._lost = 0
        self._ahead_ns = time.time_ns() - time.monotonic_ns()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def begin(self, traceparent: bytes) -> tuple[Trace | None, str]:
        """The trace that a request goes on with, and the id of the span that it came from.

        A client that has decided is followed; others are recorded by chance.
        """
        parent = read_traceparent(traceparent)
        if parent is not None:
            return (parent.child() if parent.sampled else parent), parent.span_id
        if random.random() < self._share:  # noqa: S311 - chance, not secrecy
            return new_trace(sampled=True), ""
        return None, ""

    def add(self, name: str, span: Span, attributes: Attributes, *, failed: bool = False) -> None:
        """Have a span sent; a tracer that is behind drops it."""
        if len(self._spans) < _MOST:
            self._spans.append(_Told(name, span, attributes, failed))
        else:
            self._lost += 1

    def close(self) -> None:
        """Send what is there, and no more."""
        self._closed.set()
        self._thread.join(_TIMEOUT_S)

    def _run(self) -> None:
        why = ""
        while not self._closed.wait(_PAUSE_S) or self._spans:
            while self._spans:
                spans = [self._spans.popleft() for _ in range(min(len(self._spans), _BATCH))]
                before, why = why, self._sent(spans)
                if why:
                    self._lost += len(spans)
                if why != before:  # once, not with every try
                    _tell(why, self._lost)
                if why and self._closed.is_set():
                    return

    def _sent(self, spans: list[_Told]) -> str:
        """Send spans; returns why that failed, or nothing."""
        secure = self._url.scheme == "https"
        host, port = self._url.hostname or "", self._url.port
        connection = (
            http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=ssl.create_default_context())
            if secure
            else http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        )
        try:
            path = self._url.path.rstrip("/") + _PATH
            connection.request("POST", path, self._encoded(spans), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            return str(error) or type(error).__name__
        finally:
            connection.close()
        return "" if answer.status == _OK else f"the collector answered {answer.status}"

    def _encoded(self, spans: list[_Told]) -> bytes:
        """An ExportTraceServiceRequest."""
        scope = {"scope": {"name": "mlbuffet"}, "spans": [self._span(span) for span in spans]}
        resource = {"attributes": _attributes(self._resource)}
        return orjson.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]})

    def _span(self, told: _Told) -> dict[str, object]:
        span = told.span
        return {
            "traceId": span.trace.trace_id,
            "spanId": span.trace.span_id,
            "parentSpanId": span.parent_id,
            "name": told.name,
            "kind": span.kind,
            "startTimeUnixNano": str(span.began_ns + self._ahead_ns),
            "endTimeUnixNano": str(span.ended_ns + self._ahead_ns),
            "attributes": _attributes(told.attributes),
            "status": {"code": _ERROR} if told.failed else {},
        }


def _attributes(values: Attributes) -> list[dict[str, object]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: str | float) -> dict[str, object]:
    if isinstance(value, str):
        return {"stringValue": value}
    return {"intValue": str(value)} if isinstance(value, int) else {"doubleValue": value}


def _tell(why: str, lost: int) -> None:
    """Say that the collector does not take spans, or that it does again."""
    if why:
        log.warning("traces not taken", extra={"why": why, "lost": lost})
    else:
        log.info("traces taken again", extra={"lost": lost})
