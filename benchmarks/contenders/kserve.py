"""The KServe SDK's model server with two workers, as it comes and without INFO logging."""

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import oip
from benchmarks.contenders.contender import Peer, Place, Request
from benchmarks.workloads import Workload

_QUIET = {
    "version": 1,
    "disable_existing_loggers": False,
    "root": {"level": "WARNING"},
    "loggers": {name: {"level": "WARNING"} for name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.access")},
}


class KServe(Peer):
    """Two uvicorn workers."""

    name = "KServe"
    key = "kserve-defaults"
    what = "the SDK's `ModelServer` with 2 workers, otherwise its defaults; V2 JSON and V2 binary"
    environment = "kserve"
    packages = ("kserve", "fastapi", "uvicorn", "uvloop", "httptools", "orjson", "numpy", "onnxruntime")
    sessions = 2

    def command(self, place: Place) -> list[str]:
        """The script, with KServe's own options."""
        options = ["--http_port", place.ports["HTTP_PORT"], "--grpc_port", place.ports["GRPC_PORT"]]
        return [str(place.python), "server.py", "--workers", str(self.sessions), *options]

    def request(self, workload: Workload, encoding: str) -> Request:
        """V2 in both encodings."""
        return oip.infer(workload, encoding)

    def answer(self, body: bytes, headers: Mapping[str, str]) -> NDArray[np.generic]:
        """V2 in both encodings."""
        return oip.answer(body, headers)


class QuietKServe(KServe):
    """The same without a log line for each request."""

    name = "KServe, quiet"
    key = "kserve"
    what = "the same with logging from WARNING on and latency logging off"

    def command(self, place: Place) -> list[str]:
        """The same, with a logging configuration."""
        config = place.folder / "logging.json"
        config.write_text(json.dumps(_QUIET), encoding="utf-8")
        quiet = ["--log_config_file", str(config), "--enable_latency_logging", "false"]
        return super().command(place) + quiet
