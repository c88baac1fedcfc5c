"""NVIDIA's tritonclient, its command in MLServer, and gRPC's standard clients."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.harness.client_environments import python_of, run_suite
from tests.harness.platform import RunningPlatform


@pytest.mark.parametrize("suite", ["both_protocols.py", "http_only.py", "grpc_only.py"])
def test_tritonclient(served: RunningPlatform, suite: str) -> None:
    run_suite("triton", suite, served)


@pytest.mark.parametrize("options", [["--batch-size=8"], ["--binary-data"]], ids=["JSON", "binary"])
def test_mlserver_infer(served: RunningPlatform, tmp_path: Path, options: list[str]) -> None:
    values = [[float(number), -number / 3] for number in range(50)]
    asked = [
        {"id": f"line {number}", "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": value}]}
        for number, value in enumerate(values)
    ]
    lines, answers = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    lines.write_text("".join(json.dumps(each) + "\n" for each in asked))
    server = ["--url", f"127.0.0.1:{served.port}", "--model-name", "fp64", "--retries", "1", "--timeout", "30"]
    files = [f"--input-data-path={lines}", f"--output-data-path={answers}"]
    completed = subprocess.run(
        [python_of("triton").with_name("mlserver"), "infer", *server, *files, "--workers", "4", *options],
        timeout=90,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    answered = {each["id"]: each for each in map(json.loads, answers.read_text().splitlines())}
    assert set(answered) == {each["id"] for each in asked}, completed.stdout
    for number, value in enumerate(values):
        answer = answered[f"line {number}"]
        assert answer["model_name"] == "fp64"
        assert [(each["name"], each["shape"], each["data"]) for each in answer["outputs"]] == [("y", [1, 2], value)]
