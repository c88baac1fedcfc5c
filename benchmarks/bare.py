"""The bare onnxruntime loop: what the cores can do for a model when nothing is served."""

import contextlib
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.environments import ROOT
from benchmarks.processes import CORES, running
from benchmarks.workloads import Workload

_WARM_UP = 3


class BareError(RuntimeError):
    """A loop ended without a result."""


@dataclass(frozen=True, slots=True)
class Bare:
    """One measurement of the loop."""

    per_second: float
    cpu_us: float
    processes: int
    threads: int


def measure_bare(workload: Workload, seconds: int) -> Bare:
    """Run the loop on all cores in both ways, and take the faster: a process a core, or one session on all cores.

    Raises:
        BareError: a loop failed.
    """
    return max((_run(workload, seconds, *way) for way in ((CORES, 1), (1, CORES))), key=lambda bare: bare.per_second)


def _run(workload: Workload, seconds: int, processes: int, threads: int) -> Bare:
    command = [sys.executable, "-m", "benchmarks.bare", str(workload.model), str(threads), str(seconds)]
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(
                running(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True))
            )
            for _ in range(processes)
        ]
        said = [process.communicate()[0].split() for process in started]
    if any(process.returncode for process in started):
        msg = f"the loop over {workload.name} ended with {[process.returncode for process in started]}"
        raise BareError(msg)
    runs, took_s, cpu_s = (tuple(map(float, column)) for column in zip(*said, strict=True))
    per_second = sum(count / s for count, s in zip(runs, took_s, strict=True))
    return Bare(per_second, sum(cpu_s) / sum(runs) * 1e6, processes, threads)


def _loop(model: Path, threads: int, seconds: float) -> tuple[int, float, float]:
    """Run the model on its row; returns how often, and the seconds and the processor seconds that took."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names, feeds = [session.get_outputs()[0].name], {"input": np.load(model.with_suffix(".npy"))}
    for _ in range(_WARM_UP):
        session.run(names, feeds)
    runs, started, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        session.run(names, feeds)
        runs += 1
    return runs, time.perf_counter() - started, time.process_time() - cpu


if __name__ == "__main__":
    print(*_loop(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
