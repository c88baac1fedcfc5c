"""The load generator: wrk, one thread, keep-alive connections, a closed loop of POSTs of one body."""

import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.environments import HERE

_MARK = "RESULT "


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


class LoadError(RuntimeError):
    """wrk could not run, or some answers were not 2xx or 3xx: the numbers would mean nothing."""


def post(url: str, body: bytes, headers: Mapping[str, str], *, connections: int, seconds: int) -> Load:
    """Load a server.

    Raises:
        LoadError: wrk failed, or any request did.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=60s", "-s", str(HERE / "post.lua")]
        script = [file.name, *(f"{name}: {value}" for name, value in headers.items())]
        done = subprocess.run(["wrk", *options, url, "--", *script], capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        msg = f"wrk ended with status {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}"
        raise LoadError(msg)
    seen = json.loads(line.removeprefix(_MARK))
    if seen["errors"] or not seen["requests"]:
        msg = f"{seen['errors']} of {seen['requests']} requests failed"
        raise LoadError(msg)
    return Load(seen["requests"], seen["duration_us"] / 1e6, seen["p50_us"] / 1e3, seen["p99_us"] / 1e3)
