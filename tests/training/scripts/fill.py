"""T06: fills each place that it can write to, with bytes and then with empty files; says what came of it."""

import errno
import json
import os
import sys
from pathlib import Path


def fill(place: Path) -> dict[str, object]:
    """Write until it is refused."""
    written, chunk = 0, bytes(1 << 20)
    file = place / "much"
    try:
        with file.open("wb", buffering=0) as out:
            while written < 1 << 40:
                written += out.write(chunk)
    except OSError as error:
        outcome = errno.errorcode[error.errno or 0]
    else:
        outcome = "none refused"
    return {"what": "bytes", "place": str(place), "number": written, "outcome": outcome}


def litter(place: Path) -> dict[str, object]:
    """Make empty files until it is refused."""
    made, outcome = 0, "none refused"
    try:
        while made < 10_000_000:
            os.close(os.open(place / f"e{made}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            made += 1
    except OSError as error:
        outcome = errno.errorcode[error.errno or 0]
    return {"what": "files", "place": str(place), "number": made, "outcome": outcome}


for name in ("/", "/tmp", str(Path.cwd()), "/dev/shm", "/env", "/dev", "/proc", "/sys/fs/cgroup", "/run", "/var/tmp"):
    print(json.dumps(fill(Path(name))), flush=True)
    if (Path(name) / "much").exists():
        (Path(name) / "much").unlink()
    print(json.dumps(litter(Path(name))), flush=True)
sys.exit("full")
