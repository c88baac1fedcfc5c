"""What processes that run models have given up, seen from outside and tried from inside."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.faults import name_of
from tests.harness.onnx_models import constant
from tests.harness.platform import ROOT, RunningPlatform, wait_until

RUN_OUT = "from modelhost.sandbox.confine import limit; limit(cpu_s=1, memory_bytes=0)\nwhile True: pass"
UNKNOWN = """
import os
from modelhost.sandbox import confine
confine.platform.machine = lambda: "riscv64"
missing = confine.seal()
os._exit(42 if missing == ("seccomp",) or missing == ("landlock", "seccomp") else 1)
"""


def python(code: str) -> int:
    """Run some code in a process of its own; returns its exit status."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False, capture_output=True
    ).returncode


def sealed(*arguments: str) -> tuple[dict[str, Any], int]:
    """What a sealed process tried, and how it ended."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "tests.harness.sealed", *arguments]
    with ours, theirs, subprocess.Popen(command, cwd=ROOT, stdin=theirs.fileno(), stderr=subprocess.PIPE) as process:
        theirs.close()
        said = b"".join(iter(lambda: ours.recv(1 << 16), b""))
        _, errors = process.communicate(timeout=60)
    assert said, errors.decode()
    return json.loads(said), process.returncode


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: text.strip() for name, text in (line.split(":", 1) for line in lines)}


def runners(platform: RunningPlatform) -> list[int]:
    children = [pid for service in platform.processes for pid in platform.children(service)]
    return [pid for pid in children if name_of(pid).startswith("runner")]


def test_every_runner_is_sealed(shared_platform: RunningPlatform) -> None:
    expected = 2 * len(shared_platform.names())  # one on each modelhost
    wait_until(lambda: len(runners(shared_platform)) == expected, what="what earlier tests used being gone")
    for pid in runners(shared_platform):
        fields = status(pid)
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2"), fields["Name"]
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
        limits = {line[:26].strip(): line[26:].split() for line in lines}
        for name, most in (("Max file size", "0"), ("Max core file size", "0"), ("Max open files", "32")):
            assert limits[name][:2] == [most, most]
        links = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
        assert {link for link in links if not link.startswith("socket:")} == {"/dev/null", "/memfd:progress (deleted)"}
    for record in shared_platform.records("modelhost-1"):
        assert "seccomp" not in record.get("missing", []), record


def test_what_is_not_computing_is_forbidden() -> None:
    said, ended = sealed()
    assert ended == 0
    assert set(said["missing"]) <= {"landlock"}, "which not every kernel has"
    worked = {name: how for name, how in said["forbidden"].items() if how not in {"EPERM", "ENOSYS"}}
    assert worked == {}
    assert len(said["forbidden"]) > 50


def test_computing_goes_on_within_its_memory() -> None:
    said, ended = sealed("abort")
    assert said["allowed"] == {"thread": "worked", "64 MiB": "worked", "512 MiB": "MemoryError()"}
    assert ended == -signal.SIGABRT, "a process may end itself"


def test_processor_time_that_is_up_is_told_from_being_killed() -> None:
    assert python(RUN_OUT) == -signal.SIGXCPU


def test_a_kernel_without_a_layer_is_no_reason_to_stop() -> None:
    assert python(UNKNOWN) == 42


@pytest.mark.parametrize("threads", ["1", "3"])
def test_a_sealed_model_runs_with_threads(tmp_path: Path, threads: str) -> None:
    (tmp_path / "repository").mkdir()
    environment = {"MODELHOST_THREADS": threads}
    with RunningPlatform(tmp_path / "repository", modelhosts=1, workers=1, environment=environment) as platform:
        assert platform.put("constant", constant(3, padding_bytes=4_000_000)).status_code == 201
        assert platform.predict("constant", [[1.0]]).json()["values"] == [[3.0]]
        assert {status(pid)["Seccomp"] for pid in runners(platform)} == {"2"}
