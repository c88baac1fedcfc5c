"""The data channel beside what could stand in its place: `python -m benchmarks.channel`.

An echo between two processes, by each way in turn, round after round. docs/adr/0002-data-channel.md decides by it.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.environments import HERE, ROOT, InstallError, pinned, python_of
from benchmarks.machine import describe_machine, installed
from benchmarks.processes import NotReadyError, end_on_sigterm, running, wait_until
from benchmarks.report import Spread, facts, ratio, table, write

_PACKAGES = ("pyzmq", "uvloop", "aiohttp", "urllib3", "uvicorn", "httptools")
_DRIVE_S = 90


@dataclass(frozen=True, slots=True)
class Way:
    """A way to send a request to another process: a module of `benchmarks.echo`."""

    module: str
    title: str
    is_ours: bool = False
    by_port: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """How large the bodies are, and how many requests are in flight."""

    title: str
    body_bytes: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One way in one case and round."""

    per_second: float
    cpu_us: float


OURS = Way("ours", "data channel (uvloop)", is_ours=True)
WAYS = (
    OURS,
    Way("zmq_blocking", "pyzmq, blocking loops, no event loop"),
    Way("zmq_callback", "pyzmq, its descriptor in uvloop"),
    Way("zmq_asyncio", "pyzmq, zmq.asyncio on uvloop"),
    Way("http_aiohttp", "HTTP: aiohttp pool to uvicorn, unix socket"),
    Way("http_urllib3", "HTTP: urllib3 pool in threads to uvicorn, TCP", by_port=True),
)
CASES = (
    Case("200 B, 1 in flight", 200, 1),
    Case("200 B, 4 in flight", 200, 4),
    Case("200 B, 32 in flight", 200, 32),
    Case("200 B, 256 in flight", 200, 256),
    Case("3 MiB, 4 in flight", 3 << 20, 4),
)
Samples = Mapping[str, Mapping[str, list[Sample]]]  # by way's title, then by case's title


class ExchangeError(RuntimeError):
    """A client failed."""


def measure(way: Way, case: Case, seconds: float) -> Sample:
    """Start a server, drive it, stop it.

    Raises:
        NotReadyError, ExchangeError: there is nothing to measure.
        InstallError: the peers are not there.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        address = f"127.0.0.1:{_free_port()}" if way.by_port else f"{folder}/socket"
        python = sys.executable if way.is_ours else str(python_of("channel"))
        command = [python, "-m", f"benchmarks.echo.{way.module}"]
        what = [address, str(case.body_bytes), str(case.in_flight)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([*command, "serve", *what], cwd=ROOT, env=environment, start_new_session=True)
        with running(process) as server:
            wait_until(lambda: _accepts(address), server)
            drive = [*command, "drive", *what, "--seconds", str(seconds), "--server", str(server.pid)]
            done = subprocess.run(
                drive, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_DRIVE_S, check=False
            )
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        msg = f"the client ended with status {done.returncode}"
        raise ExchangeError(msg)
    counted = json.loads(done.stdout)
    return Sample(counted["requests"] / counted["seconds"], counted["cpu_s"] / counted["requests"] * 1e6)


def run(rounds: int, seconds: float) -> tuple[dict[str, dict[str, list[Sample]]], dict[str, str]]:
    """Measure every way in every case, in turn; returns samples, and reasons for ways that have none."""
    samples: dict[str, dict[str, list[Sample]]] = {way.title: {case.title: [] for case in CASES} for way in WAYS}
    missing: dict[str, str] = {}
    for number in range(1, rounds + 1):
        for case in CASES:
            for way in WAYS:
                if way.title in missing:
                    continue
                try:
                    samples[way.title][case.title].append(measure(way, case, seconds))
                except (InstallError, NotReadyError, ExchangeError, subprocess.TimeoutExpired) as error:
                    missing[way.title] = f"not measured: {error if not hasattr(error, 'cmd') else 'it hung'}"
        print(f"round {number} of {rounds}", file=sys.stderr)
    return {title: found for title, found in samples.items() if title not in missing}, missing


def summarise(samples: Samples) -> dict[str, dict[str, dict[str, Spread]]]:
    """Medians and spreads, and the ratio of ours to each."""
    ours = samples.get(OURS.title)
    summary: dict[str, dict[str, dict[str, Spread]]] = {}
    for title, cases in samples.items():
        summary[title] = {}
        for case, found in cases.items():
            row = {
                "requests_per_second": Spread.of([sample.per_second for sample in found]),
                "cpu_us_per_request": Spread.of([sample.cpu_us for sample in found]),
            }
            if ours is not None:
                row["ratio_requests"] = ratio([s.per_second for s in ours[case]], [s.per_second for s in found])
                row["ratio_cpu"] = ratio([s.cpu_us for s in ours[case]], [s.cpu_us for s in found])
            summary[title][case] = row
    return summary


def render(data: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    head = ["case", "way", "requests/s", "CPU µs/request", "ours ÷ this: requests/s", "ours ÷ this: CPU"]
    rows: list[list[object]] = [
        [case.title, title, *cases[case.title].values()] for case in CASES for title, cases in data["summary"].items()
    ]
    rows += [["all", title, why, "", "", ""] for title, why in data["missing"].items()]
    return f"""\
# The data channel beside its alternatives

Made by `python -m benchmarks.channel --rounds {data["rounds"]} --seconds {data["seconds"]:g}`: an echo between two
processes on one machine, a closed loop with so many requests in flight. Medians (smallest to largest) of
{data["rounds"]} rounds in turn. CPU is user and system time of both processes with all their threads, on
{data["machine"]["cores"]} cores. A closed loop is the best case for whoever sends together what is ready together; with
one request in flight there is nothing to send together.

{table(head, rows)}

{facts(data["machine"], data["versions"])}
"""


def main() -> None:
    """Measure, write the report, and end with 1 when a way is missing in it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="measured per way, case and round")
    arguments = parser.parse_args()
    end_on_sigterm()
    machine = describe_machine()
    samples, missing = run(arguments.rounds, arguments.seconds)
    data = {
        "machine": machine,
        "versions": {"ours": installed("uvloop"), "peers": pinned("channel", *_PACKAGES)},
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "missing": missing,
        "summary": summarise(samples),
        "samples": samples,
    }
    write(HERE / "results", "channel", data, render(data))
    sys.exit(1 if missing else 0)


def _accepts(address: str) -> bool:
    """Tell whether somebody listens there."""
    host, _, port = address.rpartition(":")
    family, where = (socket.AF_INET, (host, int(port))) if port.isdecimal() else (socket.AF_UNIX, address)
    with contextlib.suppress(OSError), socket.socket(family) as sock:
        sock.connect(where)
        return True
    return False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


if __name__ == "__main__":
    main()
