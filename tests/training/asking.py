"""A client of the training API for tests: sends what nobody should, and waits for what becomes of it."""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.harness.platform import SAMPLES, wait_until

SCRIPTS = Path(__file__).parent / "scripts"
OVER = {"FINISHED", "FAILED", "KILLED"}
MODEL = (SAMPLES / "iris.onnx/1/model.onnx").read_bytes()  # that a script may pass off as its own
_END_S = 120.0

Files = list[tuple[str, tuple[str, bytes]]]


@dataclass(frozen=True)
class Asking:
    """Where the API is, and with which key."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    verify: str | bool = True

    def send(
        self,
        script: str | bytes,
        *,
        model: str = "trained.onnx",
        kind: str = "",
        dataset: bytes = MODEL,
        requirements: bytes = b"",
        **fields: Any,  # noqa: ANN401 - as requests takes them
    ) -> requests.Response:
        """Send a run: a script of ours by its name, or any bytes; `kind` is its parameter."""
        text = (SCRIPTS / script).read_bytes() if isinstance(script, str) else script
        parameters = dict(fields.pop("parameters", {})) | ({"kind": kind} if kind else {})
        files: Files = [
            ("script", ("train.py", text)),
            ("requirements", ("requirements.txt", requirements)),
            ("dataset", ("data.bin", dataset)),
        ]
        data = {"parameters": json.dumps(parameters)} | {name: str(value) for name, value in fields.items()}
        url = f"{self.url}/api/v1/train/{model}"
        return requests.post(url, files=files, data=data, headers=dict(self.headers), timeout=60, verify=self.verify)

    def submit(self, script: str | bytes, **fields: Any) -> str:  # noqa: ANN401 - as above
        """Send a run that is taken; returns its id."""
        sent = self.send(script, **fields)
        assert sent.status_code == 202, sent.text
        return str(sent.json()["run_id"])

    def get(self, path: str) -> requests.Response:
        """Ask for something below /api/v1/."""
        return requests.get(f"{self.url}/api/v1/{path}", headers=dict(self.headers), timeout=60, verify=self.verify)

    def cancel(self, run_id: str) -> requests.Response:
        """Call a run off."""
        url = f"{self.url}/api/v1/runs/{run_id}/cancel"
        return requests.post(url, headers=dict(self.headers), timeout=60, verify=self.verify)

    def show(self, run_id: str) -> dict[str, Any]:
        """A run as it is now."""
        shown = self.get(f"runs/{run_id}")
        assert shown.status_code == 200, shown.text
        told: dict[str, Any] = shown.json()
        return told

    def training(self, run_id: str, within_s: float = _END_S) -> dict[str, Any]:
        """Wait until the script runs, or the run is over."""
        return self._until(run_id, within_s, lambda run: run["phase"] == "TRAINING" or run["state"] in OVER)

    def ended(self, run_id: str, within_s: float = _END_S, every_s: float = 0.02) -> dict[str, Any]:
        """Wait until a run is over."""
        return self._until(run_id, within_s, lambda run: run["state"] in OVER, every_s)

    def _until(
        self, run_id: str, within_s: float, is_so: Callable[[dict[str, Any]], bool], every_s: float = 0.02
    ) -> dict[str, Any]:
        def look() -> dict[str, Any]:
            with contextlib.suppress(requests.RequestException):
                run = self.show(run_id)
                return run if is_so(run) else {}
            return {}

        return wait_until(look, within_s, f"run {run_id}", every_s)

    def printed(self, run_id: str) -> bytes:
        """A run's whole log."""
        return self.get(f"runs/{run_id}/logs").content

    def has_begun(self, run_id: str) -> bool:
        """Tell whether a run's script has printed something."""
        return bool(self.printed(run_id).partition(b"mlbuffet: the script starts\n")[2])

    def findings(self, run_id: str) -> list[dict[str, Any]]:
        """What a script has printed as lines of JSON."""
        return [json.loads(line) for line in self.printed(run_id).splitlines() if line.startswith(b"{")]
