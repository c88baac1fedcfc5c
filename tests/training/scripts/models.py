"""T08: ends well, and leaves something else than a model where the model is to be."""

import os
import shutil
import sys
from pathlib import Path

target = Path(os.environ["MLBUFFET_MODEL_PATH"])
kind = os.environ["MLBUFFET_PARAM_KIND"]
if kind == "folder":
    target.mkdir()
    (target / "model.onnx").write_bytes(b"inside")
elif kind == "empty":
    target.touch()
elif kind == "text":
    target.write_text("a model, on my word\n")
elif kind == "huge":
    with target.open("wb") as file:
        file.truncate(50 * 10**9)
elif kind == "link":
    target.symlink_to("/etc/passwd")
elif kind == "pipe":
    os.mkfifo(target)
elif kind == "dataset":
    shutil.copy(os.environ["MLBUFFET_DATASET"], target)
elif kind != "none":
    sys.exit(f"unknown: {kind}")
