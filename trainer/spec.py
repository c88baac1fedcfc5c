"""What is asked of a Docker engine for each container and volume, as its API takes it. Pure; tested by equality.

Nothing here comes from a request but a run's id, the numbers of its limits, and its parameters as environment and
arguments. A script's container has no network, no capability, no way to new privileges, a root that it cannot write,
and memory, processes, disk and log that are bounded (docs/adr/0034-training-containers.md).
"""

import hashlib
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer import start
from trainer.runs import Run

START = inspect.getsource(start)  # begins a script in its container

USER_ID = 65534
USER = f"{USER_ID}:{USER_ID}"
WORK, ENVIRONMENT = "/work", "/env"
SCRIPT = "train.py"
METRICS_FILE = "metrics.jsonl"
RUN_LABEL, TRAINER_LABEL, ROLE_LABEL = "mlbuffet.run", "mlbuffet.trainer", "mlbuffet.role"
TOKEN_LABEL = "mlbuffet.token"  # noqa: S105 - no secret
CA_FILE = "index-ca.pem"
SITE = f"{ENVIRONMENT}/site"

_MIB = 1 << 20
# The driver that keeps bytes as they are; `json-file` replaces what is no UTF-8.
_KEPT_LOG = {"Type": "local", "Config": {"max-size": "64m", "max-file": "1", "compress": "false"}}
_HELPER_BYTES, _HELPER_PIDS = 512 * _MIB, 64
_OPEN_FILES = 4096
_SHARED_BYTES = 64 * _MIB
_IDLE = "import signal\nwhile True: signal.pause()"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What is the same for all runs of a trainer."""

    trainer_id: str
    image: str
    pids: int
    work_bytes: int
    work_files: int
    tmp_bytes: int
    log_bytes: int
    index_url: str
    sdists: bool
    has_ca: bool

    def labels(self, run_id: str, role: str) -> dict[str, str]:
        """What tells whose a container or volume is."""
        return {TRAINER_LABEL: self.trainer_id, RUN_LABEL: run_id, ROLE_LABEL: role}


def container_name(run_id: str, role: str) -> str:
    """The name of a run's container."""
    return f"mlbuffet-{run_id}-{role}"


def work_volume(sandbox: Sandbox, run_id: str) -> dict[str, Any]:
    """The folder that a script works in: memory of a fixed size, with room for a fixed number of files."""
    options = (
        f"size={sandbox.work_bytes},nr_inodes={sandbox.work_files},mode=0700,uid={USER_ID},gid={USER_ID},nosuid,nodev"
    )
    return {
        "name": container_name(run_id, "work"),
        "driver": "local",
        "driver_opts": {"type": "tmpfs", "device": "tmpfs", "o": options},
        "labels": sandbox.labels(run_id, "work"),
    }


def environment_name(sandbox: Sandbox, image_digest: str, requirements: bytes) -> str:
    """The volume in which the installed requirements are: named after all that decides what is in it."""
    decides = json.dumps([image_digest, sandbox.index_url, sandbox.sdists, requirements.hex()])
    return f"mlbuffet-env-{sandbox.trainer_id}-{hashlib.sha256(decides.encode()).hexdigest()[:24]}"


def environment_volume(sandbox: Sandbox, name: str, token: str) -> dict[str, Any]:
    """That volume, which outlives the run; the token tells it from another one that was made in its place."""
    labels = {TRAINER_LABEL: sandbox.trainer_id, ROLE_LABEL: "environment", TOKEN_LABEL: token}
    return {"name": name, "driver": "local", "labels": labels}


def prepare_container(sandbox: Sandbox, run_id: str, image: str, environment: str) -> dict[str, Any]:
    """Installs the requirements: it has the network, and runs nothing of the user's unless sdists are allowed."""
    pip = ["python3", "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-cache-dir"]
    if not sandbox.sdists:
        pip.append("--only-binary=:all:")
    host = _host(_HELPER_BYTES * 4, 2.0, _HELPER_PIDS) | {
        "NetworkMode": "bridge",
        "Tmpfs": {"/tmp": _tmpfs(sandbox.tmp_bytes)},  # noqa: S108 - the container's own
        "Mounts": [_mount(environment, ENVIRONMENT)],
    }
    variables = {"HOME": "/tmp", "TMPDIR": f"{ENVIRONMENT}/tmp", "PIP_ROOT_USER_ACTION": "ignore"}  # noqa: S108 - as above
    if sandbox.index_url:
        variables["PIP_INDEX_URL"] = sandbox.index_url
    if sandbox.has_ca:
        variables["PIP_CERT"] = f"{ENVIRONMENT}/{CA_FILE}"
    command = [*pip, "--target", SITE, "--requirement", f"{ENVIRONMENT}/requirements.txt"]
    return _container(image, command, variables, sandbox.labels(run_id, "prepare"), host) | {"NetworkDisabled": False}


def keep_container(sandbox: Sandbox, run_id: str, image: str) -> dict[str, Any]:
    """Holds the working volume, whose content would be gone with the last container that uses it.

    A program of ours that waits; by it files go in and come out. When it is no longer there, neither is the content.
    """
    host = _host(_HELPER_BYTES, 1.0, _HELPER_PIDS) | {"Mounts": [_mount(container_name(run_id, "work"), WORK)]}
    return _container(image, ["python3", "-I", "-c", _IDLE], {}, sandbox.labels(run_id, "keep"), host)


def train_container(sandbox: Sandbox, run: Run) -> dict[str, Any]:
    """Runs the script below a first process of ours, which ends with it: then the kernel ends what is left of it."""
    limits, parameters = run.wish.limits, run.wish.parameters
    host = _host(limits.memory_bytes, limits.cpus, sandbox.pids) | {
        # Docker's own at /dev/shm would take any number of empty files.
        "Tmpfs": {"/tmp": _tmpfs(sandbox.tmp_bytes), "/dev/shm": _tmpfs(_SHARED_BYTES)},  # noqa: S108 - its own
        "Mounts": [
            _mount(container_name(run.run_id, "work"), WORK),
            _mount(str(run.environment), ENVIRONMENT, read_only=True),
        ],
    }
    arguments = [word for name, value in parameters.items() for word in (f"--{name}", text_of(value))]
    passed = str(sandbox.log_bytes + 1)  # one more than is kept: so it shows that there was more
    command = ["python3", "-I", "-c", START, passed, "python3", SCRIPT, *arguments]
    return _container(str(run.image_digest), command, script_variables(run), sandbox.labels(run.run_id, "train"), host)


def script_variables(run: Run, work: str = WORK, site: str = SITE) -> dict[str, str]:
    """What a script finds in its environment."""
    threads = str(max(1, math.ceil(run.wish.limits.cpus)))
    variables = {
        "HOME": "/tmp",  # noqa: S108 - the container's own
        "PYTHONPATH": site,
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MLBUFFET_RUN_ID": run.run_id,
        "MLBUFFET_MODEL_NAME": run.wish.model,
        "MLBUFFET_MODEL_PATH": f"{work}/{run.wish.model}",
        "MLBUFFET_DATASET": ":".join(f"{work}/{item.name}" for item in run.inputs.dataset),
        "MLBUFFET_METRICS_PATH": f"{work}/{METRICS_FILE}",
        "MLBUFFET_PARAMETERS": json.dumps(dict(run.wish.parameters)),
    }
    return variables | {parameter_variable(name): text_of(value) for name, value in run.wish.parameters.items()}


def parameter_variable(name: str) -> str:
    """The environment variable of a parameter."""
    return f"MLBUFFET_PARAM_{name.upper().replace('-', '_')}"


def text_of(value: object) -> str:
    """A parameter as a script gets it: JSON's words for numbers and booleans, a text as it is."""
    return value if isinstance(value, str) else json.dumps(value)


def cgroup_parent(driver: str) -> str:
    """Below what an engine is to make a container's control group, by the name of its driver; empty for its default.

    A container's share of the processor counts among its siblings. The default of `cgroupfs` is one group with all
    other containers, which then never rests, and goes behind everything else that the machine does.
    """
    return "/" if driver == "cgroupfs" else ""


def _container(
    image: str, command: list[str], variables: Mapping[str, str], labels: Mapping[str, str], host: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "Image": image,
        "Entrypoint": command[:1],
        "Cmd": command[1:],
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "User": USER,
        "WorkingDir": WORK if "prepare" not in labels.values() else ENVIRONMENT,
        "Labels": dict(labels),
        "NetworkDisabled": True,
        "Tty": False,
        "OpenStdin": False,
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": dict(host),
    }


def _host(memory_bytes: int, cpus: float, pids: int) -> dict[str, Any]:
    """What every container of a run is held to."""
    return {
        "NetworkMode": "none",
        "Privileged": False,
        "ReadonlyRootfs": True,
        "CapAdd": [],
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "Memory": memory_bytes,
        "MemorySwap": memory_bytes,  # the same: no swap
        "NanoCpus": int(cpus * 1e9),
        "CpuShares": 2,  # the least there is: who else wants the processor goes first
        "PidsLimit": pids,
        "OomScoreAdj": 1000,
        "OomKillDisable": False,
        "IpcMode": "private",
        "PidMode": "",
        "ShmSize": _SHARED_BYTES,
        "Binds": [],
        "Devices": [],
        "Mounts": [],
        "Ulimits": [
            {"Name": "nofile", "Soft": _OPEN_FILES, "Hard": _OPEN_FILES},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
        "LogConfig": _KEPT_LOG,
    }


def _tmpfs(size_bytes: int) -> str:
    return f"rw,nosuid,nodev,noexec,size={size_bytes},nr_inodes=65536,mode=1777"


def _mount(volume: str, target: str, *, read_only: bool = False) -> dict[str, Any]:
    return {
        "Type": "volume",
        "Source": volume,
        "Target": target,
        "ReadOnly": read_only,
        "VolumeOptions": {"NoCopy": True},
    }
