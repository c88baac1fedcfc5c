"""The tree shows the architecture: who may import whom, and which names stand at the top."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOP = {
    "benchmarks",
    "deploy",
    "docs",
    "inferrer",
    "locks",
    "metrics",
    "mlbuffet",
    "modelhost",
    "models",
    "tests",
    "trainer",
}


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [Path(name) for name in listed.split("\0") if name]


def test_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_top_level_names_are_the_agreed_ones() -> None:
    folders = {path.parts[0] for path in _tracked() if len(path.parts) > 1 and not path.parts[0].startswith(".")}
    assert folders <= TOP


def test_server_processes_import_neither_numpy_nor_a_runtime() -> None:
    code = (
        "import sys, inferrer.worker, modelhost.app\n"
        "print(sorted({'numpy', 'onnxruntime', 'PIL', 'requests'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "[]"
