"""What a run leaves on its engine's machine: processes, containers, volumes, bytes; asked of the kernel and Docker."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.harness.swarm import Node


def processes_of(containers: Iterable[str]) -> list[int]:
    """The processes that any control group of these containers has, whoever their parents are."""
    wanted = [identity.encode() for identity in containers]
    found = []
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            groups = path.read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if any(identity in groups for identity in wanted):
            found.append(int(path.parent.name))
    return found


def containers_of(node: Node, run_id: str) -> list[str]:
    """The full ids of all containers of a run, running or not."""
    return node.docker("ps", "--all", "--quiet", "--no-trunc", f"--filter=label=mlbuffet.run={run_id}").split()


def script_of(node: Node, run_id: str) -> dict[str, Any]:
    """What the engine knows of the container in which a run's script is."""
    labels = [f"--filter=label=mlbuffet.run={run_id}", "--filter=label=mlbuffet.role=train"]
    (found,) = node.inspect(*node.docker("ps", "--all", "--quiet", *labels).split())
    return found


def left_of(node: Node, run_id: str) -> list[str]:
    """The containers and volumes of a run that are there."""
    label = f"--filter=label=mlbuffet.run={run_id}"
    return containers_of(node, run_id) + node.docker("volume", "ls", "--quiet", label).split()


def free_bytes(node: Node) -> int:
    """What is free on the file system of the engine."""
    return shutil.disk_usage(node.folder).free


def resident_bytes(pid: int) -> int:
    """The memory of a process now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
