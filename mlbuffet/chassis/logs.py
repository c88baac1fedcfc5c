"""Logs: one JSON object a line on standard output, a constant event and varying fields.

`log.info("model uploaded", extra={"model": "iris.onnx", "version": 3})`. JSON escapes what could forge a record.
"""

import logging
import re
import sys
import time
import traceback
from datetime import UTC, datetime

import orjson

from mlbuffet.chassis.context import current_context, log_fields

_JUMP_S = 5.0
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# JSON allows these raw, but some readers take them for the end of a line, and some terminals for orders.
_RAW = re.compile("[\x7f-\x9f\u2028\u2029]")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON with time, level, service, event and the fields given as `extra`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service
        self._wall_ahead_s = time.time() - time.monotonic()

    def format(self, record: logging.LogRecord) -> str:
        """Write the record; a value JSON does not have is written as its text."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "pid": record.process,
            "event": record.getMessage(),
        }
        line |= log_fields(current_context.get())  # every record made for a request carries its id
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        shift_s = record.created - time.monotonic() - self._wall_ahead_s
        if abs(shift_s) > _JUMP_S:  # the clock was set since this process began: its times do not compare
            line["clock_shift_s"] = round(shift_s)
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return _RAW.sub(_escape, orjson.dumps(line, default=str).decode())


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def configure_logs(service: str, level: str = "INFO") -> None:
    """Send every logger of this process to standard output as JSON lines."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
