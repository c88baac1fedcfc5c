"""T10: looks for what is not its own; says what it found."""

import json
import os
from pathlib import Path

PLACES = (
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/secrets",
    "/training",
    "/repository",
    "/etc/docker",
    "/proc/1/cwd/../etc/docker",
    "/proc/kcore",
    "/proc/sysrq-trigger",
    "/proc/keys",
    "/proc/1/fd/1",
    "/proc/1/mem",
    "/proc/1/environ",
    "/sys/firmware/acpi",
    "/sys/fs/cgroup/cgroup.procs",
    "/dev/mem",
    "/dev/kmsg",
    "/dev/vda",
    "/etc/shadow",
)


def look(place: str) -> str:
    """What comes of reading it."""
    path = Path(place)
    try:
        if path.is_dir():
            return f"folder {sorted(item.name for item in path.iterdir())[:5]}"
        with path.open("rb") as file:
            return f"read {file.read(64)!r}"
    except OSError as error:
        return type(error).__name__


for place in PLACES:
    print(json.dumps({"place": place, "outcome": look(place)}), flush=True)
try:
    Path("/sys/fs/cgroup/memory.max").write_text("max")
except OSError as error:
    print(json.dumps({"place": "memory.max", "outcome": type(error).__name__}))
else:
    print(json.dumps({"place": "memory.max", "outcome": "written"}))
pids = [item for item in Path("/proc").iterdir() if item.name.isdecimal() and int(item.name) != os.getpid()]
others = [(pid / "cmdline").read_bytes().decode() for pid in pids]
print(json.dumps({"others": others, "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups()}))
print(json.dumps({"environment": dict(os.environ)}))
print(json.dumps({"mounts": Path("/proc/self/mountinfo").read_text().splitlines()}))
print(json.dumps({"status": Path("/proc/self/status").read_text().splitlines()}))
