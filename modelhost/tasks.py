"""What the modelhost and the processes it forks agree on: tasks, and the order to stop.

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
    path: str
    digest: str
    threads: int
    memory_bytes: int  # that it may take for itself; 0 for any amount


@dataclass(frozen=True, slots=True)
class CheckTask:
    """What a check is told when it is forked."""

    path: str
    digest: str
    memory_bytes: int
