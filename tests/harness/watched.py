"""A real Prometheus with the real rules beside a running platform, and what a test asks it."""

import http.server
import json
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import requests

from mlbuffet.watching import Watch, note_start, prometheus
from tests.harness.platform import RunningPlatform, free_port, wait_until
from tests.harness.programs import required


class Prometheus:
    """Asks the platform's services as the one of `mlbuffet up` does; leaving it stops it."""

    def __init__(self, platform: RunningPlatform, folder: Path) -> None:
        required("prometheus")
        self._platform = platform
        self._folder = folder
        self._port = free_port()
        self._url = f"http://127.0.0.1:{self._port}/api/v1"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(exist_ok=True)

    def __enter__(self) -> Self:
        """Start it, and wait until it has every service in view."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    def start(self) -> None:
        """Start it, on what it has collected before."""
        watch = Watch(self._folder / "data", self._port)
        command = prometheus(watch, f"127.0.0.1:{self._platform.port}", self._folder)
        for name in self._platform.processes:
            self.note(name)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_until(self._is_ready, 30, "Prometheus being ready")

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def note(self, service: str) -> None:
        """Have it find a service where it is now, as the supervisor of `mlbuffet up` does."""

        def noted() -> bool:
            for line in self._platform.log_file(service).read_bytes().splitlines():
                note_start(service, self._folder, line)
            return service == "inferrer" or (self._folder / f"{service}.targets.json").exists()

        wait_until(noted, 30, f"{service} having said where it is")

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self._port}/-/ready", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def value(self, query: str) -> float | None:
        """The one value of a query; None without any."""
        answer = requests.get(f"{self._url}/query", params={"query": query}, timeout=10).json()
        found = answer["data"]["result"]
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> set[str]:
        """The alerts that fire."""
        alerts = requests.get(f"{self._url}/alerts", timeout=10).json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


class _Engine(http.server.BaseHTTPRequestHandler):
    """Says what a Docker engine says that has nothing."""

    def do_GET(self) -> None:
        """Answer by the end of the path."""
        path = self.path.partition("?")[0]
        known = {"/version": {"ApiVersion": "1.41", "Components": []}, "/json": [], "/volumes": {"Volumes": []}}
        body = json.dumps(next((known[end] for end in known if path.endswith(end)), {})).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        """Nobody's: a unix socket."""
        return ""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextmanager
def docker_engine(path: Path) -> Iterator[None]:
    """A unix socket that answers the trainer's checks as a Docker engine does, and nothing else."""
    with _Server(str(path), _Engine) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            path.unlink()
