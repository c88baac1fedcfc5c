"""MLBuffet: the platform as `mlbuffet up` starts it, asked with an API key, which every request is checked for."""

import contextlib
import dataclasses
import json
import os
import secrets
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import oip
from benchmarks.contenders.contender import BINARY, Contender, Request, Running, free_ports, server
from benchmarks.environments import ROOT
from benchmarks.machine import installed
from benchmarks.processes import wait_until
from benchmarks.workloads import Workload
from mlbuffet.keyfile import write_keys
from mlbuffet.keys import Wish, new_key

_UPLOAD_S = 60
_HASHING_KEY = secrets.token_bytes(32)
_RECORD, _KEY = new_key(Wish("benchmark", ["admin"]), _HASHING_KEY, datetime.now(UTC))
_SIGNED = {"Authorization": f"Bearer {_KEY}"}


class Ours(Contender):
    """Both tiers: an inferrer with a worker for each core, two modelhosts, a runner for each model in each."""

    name = "MLBuffet"
    key = "ours"
    what = "`mlbuffet up` with a key: inferrer, one worker per core, 2 modelhosts; iris by V1 JSON, the others by V2"

    def install(self) -> None:
        """Nothing to do: it runs from this tree."""

    def versions(self) -> Mapping[str, str]:
        """The packages on the path of a prediction."""
        return installed("gunicorn", "uvloop", "httptools", "orjson", "numpy", "onnxruntime")

    @contextlib.contextmanager
    def start(self, workload: Workload) -> Iterator[Running]:
        """Start it over a repository that has a key and nothing else, and upload the model."""
        port, grpc_port = free_ports(2)
        base = f"http://127.0.0.1:{port}"
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            arguments = ["up", "--no-metrics", "--port", str(port), "--grpc-port", str(grpc_port)]
            arguments += ["--repository", f"{folder}/repository"]
            command = [str(Path(sys.executable).with_name("mlbuffet")), *arguments]
            first = Path(folder) / "first_keys.json"
            first.write_bytes(write_keys([_RECORD], _HASHING_KEY))
            keys = {"INFERRER_KEY_HASH": _HASHING_KEY.hex(), "INFERRER_FIRST_KEYS": str(first)}
            with server(command, Path(folder) / "log", ROOT, os.environ | keys) as process:
                wait_until(lambda: _ready(base), process)
                upload(base, workload.name, workload.model)
                wait_until(lambda: self.answers(base, workload), process)
                yield Running(process.pid, base)

    def request(self, workload: Workload, encoding: str) -> Request:
        """V1 JSON for iris, as the short curl line has it; the protocol that others speak too for what is larger."""
        if workload.name != "iris" or encoding == BINARY:
            request = oip.infer(workload, encoding)
        else:
            path = f"/api/v1/models/{workload.name}/prediction"
            request = Request.of_json(path, {"values": workload.rows.tolist()})
        return dataclasses.replace(request, headers={**request.headers, **_SIGNED})

    def answer(self, body: bytes, headers: Mapping[str, str]) -> NDArray[np.generic]:
        """The first output in either protocol."""
        if "inference-header-content-length" in headers:
            return oip.answer(body, headers)
        answer = json.loads(body)
        return np.asarray(answer["values"]) if "values" in answer else oip.answer(body, headers)


def upload(base: str, name: str, model: Path) -> None:
    """Upload a model file.

    Raises:
        OSError: it was refused.
    """
    url = f"{base}/api/v1/models/{name}"
    request = urllib.request.Request(url, model.read_bytes(), _SIGNED, method="PUT")  # noqa: S310 - our own address
    request.add_header("Content-Type", "application/octet-stream")
    with urllib.request.urlopen(request, timeout=_UPLOAD_S) as answer:  # noqa: S310 - our own address
        answer.read()


def _ready(base: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{base}/health/ready", timeout=5):  # noqa: S310 - our own address
        return True
    return False
