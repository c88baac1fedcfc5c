"""What the modelhost and the processes it forks agree on: tasks, the first word, and the order to stop.

Imported on both sides, so nothing here may import numpy or onnxruntime: the server process has neither.
"""

import struct
from dataclasses import dataclass

STOP = struct.Struct("<Q")  # the number of the request whose run is to stop

CHECK_S = 25  # so that an upload is decided within 30 s
CHECK_CPU_S = 20  # of these; a check that waits for the processor has longer


@dataclass(frozen=True, slots=True)
class RunnerTask:
    """What a runner is told when it is forked."""

    name: str
    version: int
    path: str
    digest: str
    memory_bytes: int  # that it may take for itself; 0 for any amount
    threads: int = 0  # of each run; 0 for as many as pay off
    most_threads: int = 1  # that it may choose
    batch_rows: int = 0  # that run together at most; 0 for what runs best
    tuned: bool = False  # another runner of this version has found out threads and rows: they hold as they are


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a runner has found out while it warmed up, and goes by."""

    threads: int
    batch_rows: int
    run_s: float | None  # that one row takes; None where the model refuses made-up ones


@dataclass(frozen=True, slots=True)
class CheckTask:
    """What a check is told when it is forked."""

    path: str
    digest: str
    memory_bytes: int
