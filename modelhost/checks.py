"""Looks at an uploaded file in a throw-away child: is it a model, what are its inputs and outputs, does it run."""

import socket
from dataclasses import asdict
from pathlib import Path

import orjson

from mlbuffet.channel import Codec, Kind, encode_frame
from mlbuffet.chassis.process import set_name
from mlbuffet.errors import InvalidModelError, MLBuffetError, ResourceLimitError
from modelhost.runtimes.onnx import OnnxModel, read_verified
from modelhost.sandbox.confine import limit, seal
from modelhost.structure.check import check_structure
from modelhost.tasks import CHECK_CPU_S, CheckTask


def run(task: CheckTask, answer: socket.socket) -> None:
    """Check one file and say what was found; a file that kills this process kills nothing else."""
    set_name("check")
    limit(cpu_s=CHECK_CPU_S, memory_bytes=task.memory_bytes)
    body: dict[str, object]
    try:
        body = _check(task)
        kind = Kind.REPLY
    except MLBuffetError as error:
        kind, body = Kind.ERROR, {"code": error.code, "message": error.message}
    text = orjson.dumps(body)
    answer.sendall(encode_frame(kind, Codec.NONE, 0, b"", 0, 0, len(text)) + text)


def _check(task: CheckTask) -> dict[str, object]:
    """Signature and notes of a file that is a model.

    Raises:
        InvalidModelError: it is none, or none that is taken.
        MLBuffetError: its file is not what was uploaded, or the check itself failed.
    """
    try:
        data = read_verified(Path(task.path), task.digest)
        seal()
        deterministic = check_structure(data)
        model = OnnxModel(data, threads=1)
        del data
        if not model.signature.outputs:
            msg = "the model has no output"
            raise InvalidModelError(msg)
        warning = model.try_out()
    except (MemoryError, ResourceLimitError):
        msg = f"loading the model and running it once takes more than {task.memory_bytes:,} bytes of memory"
        raise InvalidModelError(msg) from None
    except MLBuffetError:
        raise
    except Exception as error:  # noqa: BLE001 - nothing that is printed here reaches the log
        msg = f"the check failed ({type(error).__name__})"
        raise MLBuffetError(msg) from None
    notes = [f"the trial run on zeros failed: {warning}"] if warning else []
    return {"signature": asdict(model.signature), "notes": notes, "deterministic": deterministic}
