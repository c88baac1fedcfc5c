"""What the modelhost and the processes it forks agree on: tasks, and the page that shows progress.

Imported on both sides, so nothing here may import numpy or onnxruntime: the server process has neither.
"""

import mmap
import struct
from dataclasses import dataclass

PROGRESS = struct.Struct("<Q")  # the number of the request that is being run; 0 for none
PROGRESS_BYTES = mmap.PAGESIZE
STOP = struct.Struct("<Q")  # the number of the request whose run is to stop

CHECK_S = 30


@dataclass(frozen=True, slots=True)
class RunnerTask:
    """What a runner is told when it is forked."""

    name: str
    path: str
    digest: str
    threads: int


@dataclass(frozen=True, slots=True)
class CheckTask:
    """What a check is told when it is forked."""

    path: str
    digest: str
