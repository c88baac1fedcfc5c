"""What a script has left in its working folder, found out by a small program of ours in the keeper's container.

It goes through folders without following links, and looks at no content.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from mlbuffet.errors import TooLargeError
from trainer.engine import TrainingError
from trainer.runs import Reason
from trainer.spec import METRICS_FILE, WORK

METRICS_BYTES = 1 << 20

SURVEY = f"""
import json, os, stat, sys
wanted, found, kinds, todo = sys.argv[1], [], [], [{WORK!r}]
while todo:
    folder = todo.pop()
    try:
        entries = list(os.scandir(folder))
    except OSError:
        continue
    for entry in entries:
        if entry.name == wanted and len(found) < 10:
            info = entry.stat(follow_symlinks=False)
            found.append([os.fsencode(entry.path).hex(), stat.S_ISREG(info.st_mode), info.st_size])
        if entry.is_dir(follow_symlinks=False) and len(entry.path) < 3000:
            todo.append(entry.path)
try:
    info = os.lstat({f"{WORK}/{METRICS_FILE}"!r})
    metrics = info.st_size if stat.S_ISREG(info.st_mode) else 0
except OSError:
    metrics = 0
print(json.dumps({{"found": found, "metrics": metrics}}))
"""


@dataclass(frozen=True, slots=True)
class Survey:
    """Where the model is, and how long the file of metrics is."""

    model_path: str
    metrics_bytes: int


def read_survey(printed: bytes, name: str, most_bytes: int) -> Survey:
    """Decide on what was found. Pure.

    Raises:
        TrainingError: there is not exactly one model, or it is no file or too large.
    """
    data: dict[str, Any] = orjson.loads(printed)
    found = [(bytes.fromhex(path).decode(errors="replace"), regular, size) for path, regular, size in data["found"]]
    at_place = [item for item in found if item[0] == f"{WORK}/{name}"]
    files = at_place or [item for item in found if item[1]] or found
    if not files:
        msg = f"the script ended without a file {name!a} below its working folder, nor one at MLBUFFET_MODEL_PATH"
        raise TrainingError(Reason.NO_MODEL, msg)
    if len(files) > 1:
        msg = f"the script left {len(files)} files named {name!a}; one is taken, or the one at MLBUFFET_MODEL_PATH"
        raise TrainingError(Reason.NO_MODEL, msg)
    path, regular, size = files[0]
    if not regular:
        msg = f"{name!a} is a folder, a link or something else that is no file"
        raise TrainingError(Reason.NO_MODEL, msg)
    if size > most_bytes:
        msg = f"the model {name!a} has {size} bytes; at most {most_bytes} are taken"
        raise TrainingError(TooLargeError.code, msg)
    return Survey(path, min(int(data["metrics"]), METRICS_BYTES))
