"""NVIDIA's perf_analyzer: a C++ client of either protocol that asks for everything before it measures."""

import csv
import ctypes
import os
import subprocess
from pathlib import Path

import pytest

from tests.harness.client_environments import absent, python_of
from tests.harness.platform import RunningPlatform

LIBRARY = "libb64-0d"


def libraries(environment: Path) -> str:
    """Where the binary finds what it is linked with."""
    folders = [*environment.glob("lib/python*/site-packages/nvidia/cuda_runtime/lib")]
    try:
        ctypes.CDLL("libb64.so.0d")
    except OSError:
        folders += unpacked(environment / "debian")
    return ":".join(map(str, folders))


def unpacked(folder: Path) -> list[Path]:
    """Debian's library, unpacked without being installed."""
    folder.mkdir(exist_ok=True)
    try:
        if not [*folder.glob("*.deb")]:
            subprocess.run(["apt-get", "download", LIBRARY], cwd=folder, check=True, capture_output=True, text=True)
        (package,) = folder.glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", package, folder], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        absent(f"perf_analyzer needs Debian's {LIBRARY}: {error}")
    except subprocess.CalledProcessError as error:
        absent(f"perf_analyzer needs Debian's {LIBRARY}: {error.stderr}")
    return [*folder.glob("usr/lib/*-linux-gnu")]


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("http", []),
        ("http", ["--async"]),
        ("http", ["--input-tensor-format=json", "--output-tensor-format=json", "--input-data=zero"]),
        ("grpc", []),
        ("grpc", ["--async"]),
    ],
    ids=["HTTP binary", "HTTP asynchronous", "HTTP JSON", "gRPC", "gRPC asynchronous"],
)
def test_perf_analyzer(served: RunningPlatform, tmp_path: Path, protocol: str, options: list[str]) -> None:
    port = served.port if protocol == "http" else served.grpc_port
    binary = python_of("perf_analyzer").with_name("perf_analyzer")
    report = tmp_path / "report.csv"
    what = ["-m", "fp32", "-i", protocol, "-u", f"127.0.0.1:{port}", "--shape=x:1,2", "--concurrency-range=4"]
    # Three windows of so many requests, however fast this machine is and however uneven its windows are.
    windows = ["--measurement-mode=count_windows", "--measurement-request-count=300", "--stability-percentage=999"]
    completed = subprocess.run(
        [binary, *what, *windows, "--max-trials=3", "-f", report, *options],
        env={**os.environ, "LD_LIBRARY_PATH": libraries(binary.parents[1])},
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )
    said = completed.stdout + completed.stderr
    assert completed.returncode == 0, said
    with report.open(newline="") as file:
        (measured,) = csv.DictReader(file)
    assert float(measured["Inferences/Second"]) > 0
    assert "Server:" in completed.stdout, said  # the statistics grew with the requests
    assert "ailed" not in said
