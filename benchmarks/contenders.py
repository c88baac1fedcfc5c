"""The servers that `predict` compares: how each is started, asked and checked."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.environments import PEERS, ROOT, pinned, python_of
from benchmarks.machine import installed
from benchmarks.processes import running, wait_until

SAMPLES = ROOT / "models"
IRIS = SAMPLES / "iris.onnx" / "1"


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    pid: int
    url: str


class WrongAnswerError(RuntimeError):
    """A server's prediction is not the sample model's golden one."""


def golden() -> tuple[list[float], int]:
    """The input that the sample model's manifest records, and its class."""
    recorded = json.loads((IRIS / "manifest.json").read_text(encoding="utf-8"))["golden"]
    return list(recorded["values"]), int(recorded["result"][0])


class Contender(ABC):
    """One server in the comparison."""

    name: str
    what: str

    @abstractmethod
    def install(self) -> None:
        """Make sure that it can be started.

        Raises:
            InstallError: it cannot be installed here.
        """

    @abstractmethod
    def start(self) -> contextlib.AbstractContextManager[Running]:
        """Run it until the context ends."""

    @abstractmethod
    def body(self) -> bytes:
        """The request for the golden input."""

    @abstractmethod
    def label(self, answer: Any) -> object:  # noqa: ANN401 - JSON of any shape
        """The class that an answer names."""

    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """What was measured."""

    def check(self, url: str) -> None:
        """Compare a real answer with the golden one.

        Raises:
            WrongAnswerError: they differ.
        """
        answer = _post(url, self.body())
        if self.label(answer) != golden()[1]:
            msg = f"{self.name} answered {str(answer)[:200]}; expected the class {golden()[1]}"
            raise WrongAnswerError(msg)

    def answers(self, url: str) -> bool:
        """Tell whether it is up."""
        with contextlib.suppress(OSError):
            _post(url, self.body())
            return True
        return False


class Ours(Contender):
    """The platform as `mlbuffet up` starts it."""

    name = "MLBuffet"
    what = "`mlbuffet up`: inferrer with one worker per core, 2 modelhosts, 5 sample models; V1 JSON"

    def install(self) -> None:
        """Nothing to do: it runs from this tree."""

    @contextlib.contextmanager
    def start(self) -> Iterator[Running]:
        """Start it over a fresh repository."""
        port = _free_ports(1)[0]
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            arguments = ["up", "--port", str(port), "--repository", f"{folder}/repository", "--samples", str(SAMPLES)]
            command = [str(Path(sys.executable).with_name("mlbuffet")), *arguments]
            url = f"http://127.0.0.1:{port}/api/v1/models/iris.onnx/prediction"
            with _server(command, Path(folder) / "log", ROOT, os.environ) as process:
                wait_until(lambda: self.answers(url), process)
                yield Running(process.pid, url)

    def body(self) -> bytes:
        """V1 JSON, one observation."""
        return json.dumps({"values": golden()[0]}).encode()

    def label(self, answer: Any) -> object:  # noqa: ANN401 - JSON of any shape
        """The first of `values`."""
        return answer["values"][0]

    def versions(self) -> Mapping[str, str]:
        """The packages on the path of a prediction."""
        return installed("gunicorn", "uvloop", "httptools", "orjson", "numpy", "onnxruntime")


class MLServer(Contender):
    """MLServer, tuned: one process without a worker pool, llhttp and uvloop, no debug, no gzip, metrics as default."""

    name = "MLServer"
    what = "one process (`parallel_workers` 0), httptools, uvloop, debug and gzip off, same ONNX file; V2 JSON"

    def install(self) -> None:
        """Install it into its own environment."""
        python_of("mlserver")

    @contextlib.contextmanager
    def start(self) -> Iterator[Running]:
        """Start it with the same iris file."""
        http, grpc, metrics = _free_ports(3)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            shutil.copy(PEERS / "mlserver" / "runtime.py", folder)
            self._configure(Path(folder))
            ports = {"MLSERVER_HTTP_PORT": http, "MLSERVER_GRPC_PORT": grpc, "MLSERVER_METRICS_PORT": metrics}
            environment = os.environ | {name: str(port) for name, port in ports.items()} | {"PYTHONPATH": folder}
            command = [str(python_of("mlserver").with_name("mlserver")), "start", "."]
            url = f"http://127.0.0.1:{http}/v2/models/iris/infer"
            with _server(command, Path(folder) / "log", Path(folder), environment) as process:
                wait_until(lambda: self.answers(url), process)
                yield Running(process.pid, url)

    @staticmethod
    def _configure(folder: Path) -> None:
        settings = {"debug": False, "host": "127.0.0.1", "parallel_workers": 0, "gzip_enabled": False}
        model = {
            "name": "iris",
            "implementation": "runtime.OnnxRuntime",
            "parameters": {"uri": str(IRIS / "model.onnx")},
        }
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")

    def body(self) -> bytes:
        """V2 JSON, one observation."""
        values = golden()[0]
        tensor = {"name": "input", "shape": [1, len(values)], "datatype": "FP32", "data": values}
        return json.dumps({"inputs": [tensor]}).encode()

    def label(self, answer: Any) -> object:  # noqa: ANN401 - JSON of any shape
        """The first element of the first output."""
        return answer["outputs"][0]["data"][0]

    def versions(self) -> Mapping[str, str]:
        """The packages on the path of a prediction."""
        return pinned("mlserver", "mlserver", "fastapi", "uvicorn", "uvloop", "httptools", "numpy", "onnxruntime")


@contextlib.contextmanager
def _server(
    command: list[str], log: Path, folder: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server; when something goes wrong, show the end of its log."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with running(process):
            yield process
    except Exception:
        print(log.read_text(encoding="utf-8", errors="replace")[-2000:], file=sys.stderr)
        raise


def _post(url: str, body: bytes) -> Any:  # noqa: ANN401 - JSON of any shape
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - our own address
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own address
        return json.loads(answer.read())


def _free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in socks]
