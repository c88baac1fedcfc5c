"""A collector of traces in a process of its own: takes OTLP over HTTP and keeps what came, for a test to look at."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from tests.harness.platform import ROOT

_ANSWER = b'{"partialSuccess":{}}'


class Collector:
    """Its address, and what it has got."""

    def __init__(self, port: int, file: Path) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self._file = file

    def spans(self) -> list[dict[str, Any]]:
        """Every span that has come, with its attributes, and those of its service, as dictionaries."""
        found = []
        for line in self._file.read_text().splitlines():
            for resource in json.loads(line)["resourceSpans"]:
                service = attributes_of(resource["resource"])["service.name"]
                for scope in resource["scopeSpans"]:
                    found += [{**span, "service": service, **attributes_of(span)} for span in scope["spans"]]
        return found

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """Those of one trace."""
        return [span for span in self.spans() if span["traceId"] == trace_id]


def attributes_of(told: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a resource or a span."""
    return {item["key"]: next(iter(item["value"].values())) for item in told["attributes"]}


@contextmanager
def running_collector(folder: Path) -> Iterator[Collector]:
    """Run one."""
    file = folder / "traces"
    file.touch()
    command = [sys.executable, "-m", "tests.harness.collector", str(file)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Collector(int(process.stdout.readline()), file)
        finally:
            process.kill()


def main(file: Path) -> None:
    """Collect until killed."""

    class Handler(BaseHTTPRequestHandler):
        """Takes what an exporter sends, as the specification has it."""

        def do_POST(self) -> None:
            """Keep a request's spans."""
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sound = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/json"
            if sound:
                with file.open("a") as kept:
                    kept.write(json.dumps(json.loads(body)) + "\n")
            self.send_response(200 if sound else 400)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(_ANSWER)))
            self.end_headers()
            self.wfile.write(_ANSWER)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
