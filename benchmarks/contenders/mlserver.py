"""MLServer, as it comes and tuned."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import oip
from benchmarks.contenders.contender import BINARY, Peer, Place, Request
from benchmarks.workloads import Workload


class MLServer(Peer):
    """One process without a worker pool."""

    name = "MLServer, tuned"
    key = "mlserver"
    what = (
        "one process (`parallel_workers` 0), httptools, uvloop, debug and gzip off; V2 JSON; it has no binary tensors "
        "over REST, so the binary rows are base64 in V2 JSON"
    )
    environment = "mlserver"
    packages = ("mlserver", "fastapi", "uvicorn", "uvloop", "httptools", "numpy", "onnxruntime")
    server_settings: Mapping[str, Any] = {"debug": False, "parallel_workers": 0, "gzip_enabled": False}

    def command(self, place: Place) -> list[str]:
        """Write its settings files, and start it."""
        settings = {"host": "127.0.0.1", **self.server_settings}
        (place.folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        model = {"name": place.workload.name, "implementation": "runtime.OnnxRuntime"}
        (place.folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
        return [str(place.python.with_name("mlserver")), "start", "."]

    def settings(self, place: Place) -> Mapping[str, str]:
        """Its ports, the same names with a prefix."""
        return {f"MLSERVER_{port}": number for port, number in place.ports.items()}

    def request(self, workload: Workload, encoding: str) -> Request:
        """V2 JSON, with base64 for bytes."""
        return oip.infer_base64(workload) if encoding == BINARY else oip.infer(workload, encoding)

    def answer(self, body: bytes, headers: Mapping[str, str]) -> NDArray[np.generic]:
        """V2 JSON."""
        return oip.answer(body, headers)


class MLServerAsInstalled(MLServer):
    """Every setting as it comes: debug and gzip on, and one worker process behind the server."""

    name = "MLServer"
    key = "mlserver-defaults"
    what = "its defaults: debug on, gzip on, `parallel_workers` 1; the same requests"
    server_settings: Mapping[str, Any] = {}
