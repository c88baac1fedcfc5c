"""Looks at an uploaded file in a throw-away child: is it a model, what are its inputs and outputs, does it run."""

import socket
from dataclasses import asdict
from pathlib import Path

import orjson

from mlbuffet.channel import Codec, Kind, encode_frame
from mlbuffet.chassis.process import confine, set_name
from mlbuffet.errors import InvalidModelError, MLBuffetError
from modelhost.runtimes.onnx import OnnxModel, read_verified
from modelhost.tasks import CHECK_S, CheckTask

_MEMORY_BYTES = 8 << 30


def run(task: CheckTask, answer: socket.socket) -> None:
    """Check one file and say what was found; a file that kills this process kills nothing else."""
    set_name("check")
    confine(cpu_s=CHECK_S, memory_bytes=_MEMORY_BYTES)
    body: dict[str, object]
    try:
        model = OnnxModel(read_verified(Path(task.path), task.digest), threads=1)
        if not model.signature.outputs:
            msg = "the model has no output"
            raise InvalidModelError(msg)
        model.trial_feeds()
        warning = model.try_out()
    except MLBuffetError as error:
        kind, body = Kind.ERROR, {"code": error.code, "message": error.message}
    else:
        notes = [f"the trial run on zeros failed: {warning}"] if warning else []
        kind, body = Kind.REPLY, {"signature": asdict(model.signature), "notes": notes}
    text = orjson.dumps(body)
    answer.sendall(encode_frame(kind, Codec.NONE, b"", 0, 0, len(text)) + text)
