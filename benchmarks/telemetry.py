"""What measuring costs: the platform beside itself without it, in turn, by requests a second and CPU per request.

python -m benchmarks.telemetry                     # 8 rounds of 3 s each → standard output
python -m benchmarks.telemetry --beside FOLDER     # and beside another checkout of this project
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import report
from benchmarks.contenders.contender import free_ports
from benchmarks.environments import ROOT
from benchmarks.processes import cpu_seconds, running, settle, tree, wait_until
from benchmarks.wrk import post
from tests.harness.platform import copy_samples

BODY, PATH = b'{"values": [2, 5, 1, 4]}', "/api/v1/models/iris.onnx/prediction"
_CONNECTIONS = 32
_START = "from mlbuffet.cli import main; main(prog_name='mlbuffet')"
# Everything that counts or measures on the way of a prediction, taken out before the services are forked.
_SILENT = """
from mlbuffet.chassis import tally, telemetry, vitals
from modelhost import ends, progress
def nothing(*_, **__): return None
telemetry.RequestCounts.count = tally.Histogram.observe = nothing
vitals.Vitals.measure = progress.Progress.observe = ends.Ends.wanted = nothing
"""


@dataclass
class Variant:
    """A way to run it, and what was measured."""

    name: str
    code: str
    folder: Path = ROOT
    pid: int = 0
    url: str = ""
    per_second: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)


@contextlib.contextmanager
def started(variant: Variant) -> Iterator[None]:
    """Run the platform with the sample models."""
    port, grpc_port = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, (Path(folder) / "log").open("wb") as log:
        repository = Path(folder) / "repository"
        repository.mkdir()
        copy_samples(repository)
        ways = ["--port", str(port), "--grpc-port", str(grpc_port), "--repository", str(repository)]
        command = [sys.executable, "-c", variant.code, "up", "--no-metrics", *ways]
        process = subprocess.Popen(command, cwd=variant.folder, stdout=log, stderr=log, start_new_session=True)
        with running(process):
            variant.pid, variant.url = process.pid, f"http://127.0.0.1:{port}"
            wait_until(lambda: _answers(variant.url), process)
            yield


def _answers(url: str) -> bool:
    request = urllib.request.Request(url + PATH, BODY)  # noqa: S310 - our own address
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5):  # noqa: S310 - our own address
        return True
    return False


def measure(variant: Variant, seconds: int) -> None:
    """Load it once."""
    settle(variant.pid)
    processes = tree(variant.pid)
    before = cpu_seconds(processes)
    load = post(variant.url + PATH, BODY, {}, connections=_CONNECTIONS, seconds=seconds)
    variant.per_second.append(load.per_second)
    variant.cpu_us.append((cpu_seconds(processes) - before) / load.requests * 1e6)


def _row(variant: Variant, without: Variant) -> tuple[str, ...]:
    """Medians, and the ratio to the one without, round by round."""
    ratios = [a / b for a, b in zip(variant.cpu_us, without.cpu_us, strict=True)]
    rates = [a / b for a, b in zip(variant.per_second, without.per_second, strict=True)]
    return (
        variant.name,
        f"{statistics.median(variant.per_second):,.0f}",
        f"{statistics.median(variant.cpu_us):.1f}",
        f"{(statistics.median(rates) - 1) * 100:+.1f} %",
        f"{(statistics.median(ratios) - 1) * 100:+.1f} % ({min(ratios) - 1:+.1%} to {max(ratios) - 1:+.1%})",
    )


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--beside", type=Path, help="another checkout")
    options = parser.parse_args()
    without = Variant("without", _SILENT + _START)
    variants = [without, Variant("with", _START)]
    if options.beside is not None:
        variants.append(Variant("the other", _START, options.beside))
    with contextlib.ExitStack() as stack:
        for variant in variants:
            stack.enter_context(started(variant))
            measure(variant, options.seconds)  # to warm up
        for variant in variants:
            variant.per_second.clear()
            variant.cpu_us.clear()
        for turn in range(options.rounds):
            for variant in variants if turn % 2 else reversed(variants):
                measure(variant, options.seconds)
    head = ("", "requests/s", "CPU µs a request", "requests/s", "CPU a request")
    print(report.table(head, [_row(variant, without) for variant in variants]))


if __name__ == "__main__":
    main()
