"""ONNX Runtime sessions: the only import of onnxruntime. Runs in a runner or in a check, never in a server process."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from mlbuffet.errors import InvalidModelError, InvalidValueError, MLBuffetError, ModelCorruptError, ResourceLimitError
from mlbuffet.manifest import Signature, TensorSpec

_DATATYPES = {
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(float16)": "FP16",
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
} | {f"tensor({sign}int{bits})": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "BYTES": np.dtype(object),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
} | {f"{sign}INT{bits}": np.dtype(f"{sign}int{bits}".lower()) for sign in ("", "U") for bits in (8, 16, 32, 64)}

Feeds = dict[str, np.ndarray[Any, Any]]

_QUIET = 4  # fatal only: what goes wrong is told in the exception, and standard error belongs to nobody
_PATHS = re.compile(r"(?:/[\w.+-]+){2,}(?::\d+)?\S*")
_MESSAGE = 300
_NO_MEMORY = re.compile("[Ff]ailed to allocate|bad_?alloc|bad allocation|would require more than")
TOO_MUCH = "the model needs more memory for this than it may take"


_SESSION = {
    "session.intra_op.allow_spinning": "0",
    "session.load_model_format": "ONNX",  # not the runtime's own format, whose files nothing has looked at
    "session.use_env_allocators": "1",
}

_IDENTITY = Path(__file__).with_name("identity.onnx")  # the smallest model there is: one FP32 number as it came


class Terminated(Exception):  # noqa: N818 - it is no error: it was asked for
    """The run was stopped from outside."""


class OnnxModel:
    """One model ready to run. Not safe for use by several threads, but for `terminate`."""

    def __init__(self, data: bytes, threads: int) -> None:
        """Build the session.

        Raises:
            InvalidModelError: the bytes are not a model that can be loaded.
            ResourceLimitError: there is not enough memory for it.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _QUIET
        for entry, value in _SESSION.items():
            options.add_session_config_entry(entry, value)
        try:
            _share_allocator()
            self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no base of their own
            msg = f"the file is not a model that can be loaded: {clean_message(error)}"
            raise _failure(error, InvalidModelError(msg)) from None
        self.signature = Signature(_specs(self._session.get_inputs()), _specs(self._session.get_outputs()))
        self._options = _run_options()

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str]) -> list[Any]:
        """Run once; the outputs in the order asked for.

        Raises:
            InvalidValueError: the model refuses these values.
            ResourceLimitError: they make it take too much memory.
            Terminated: `terminate` was called meanwhile.
        """
        try:
            return self._session.run(outputs, feeds, self._options)  # type: ignore[no-any-return]
        except Exception as error:  # noqa: BLE001 - as above
            if self._options.terminate:
                self._options.terminate = False
                raise Terminated from None
            msg = f"the model refused these values: {clean_message(error)}"
            raise _failure(error, InvalidValueError(msg)) from None

    def terminate(self) -> None:
        """Ask the run that is going on to stop, from another thread; one big kernel may not listen."""
        self._options.terminate = True

    def give_back(self, feeds: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str]) -> None:
        """Run once more, and let go of the memory that larger runs took and this one has no use for.

        Raises:
            InvalidValueError, ResourceLimitError, Terminated: as `run`.
        """
        as_ever, self._options = self._options, _run_options()
        self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            self.run(feeds, outputs)
        finally:
            self._options = as_ever

    def trial_feeds(self) -> dict[str, np.ndarray[Any, Any]]:
        """Inputs of the right shape and type, 1 for each dynamic axis, to try and warm the model with.

        Raises:
            InvalidModelError: an input is of a type that cannot be fed.
            ResourceLimitError: an input is larger than what may be taken.
        """
        feeds = {}
        for spec in self.signature.inputs:
            dtype = DTYPES.get(spec.datatype)
            if dtype is None:
                msg = f"the input {spec.name[:80]!a} has the type {spec.datatype}, which cannot be sent"
                raise InvalidModelError(msg)
            shape = [1 if axis is None else axis for axis in spec.shape]
            try:
                feeds[spec.name] = np.full(shape, "", dtype) if dtype.hasobject else np.zeros(shape, dtype)
            except (MemoryError, ValueError):  # the second where the size is beyond what an address can be
                raise ResourceLimitError(TOO_MUCH) from None
        return feeds

    def try_out(self) -> str:
        """Run once on made-up inputs; returns why that failed, which an honest model may, or nothing.

        Raises:
            InvalidModelError: an input is of a type that cannot be fed.
            ResourceLimitError: even these make it take too much memory.
        """
        try:
            self.run(self.trial_feeds(), [spec.name for spec in self.signature.outputs])
        except InvalidValueError as error:
            return error.message
        return ""


def _run_options() -> ort.RunOptions:
    options = ort.RunOptions()
    options.log_severity_level = _QUIET
    return options


def warm_runtime() -> None:
    """Have the runtime make what its first session makes, 3 MB and 6 ms, for all processes forked from this one.

    The session is of our own model, has no thread, and is gone when this returns.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(_IDENTITY.read_bytes(), options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.zeros(1, np.float32)})


def _share_allocator() -> None:
    """Have the runtime take as much memory as it needs.

    By default, it doubles what it takes each time; after one request that was too large, the next one would be given
    all that is left, and numpy nothing.
    """
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"arena_extend_strategy": 1}))


def _failure(error: Exception, otherwise: MLBuffetError) -> MLBuffetError:
    """What an exception of the runtime means."""
    scarce = isinstance(error, MemoryError) or _NO_MEMORY.search(str(error))
    return ResourceLimitError(TOO_MUCH) if scarce else otherwise


def read_verified(path: Path, digest: str) -> bytes:
    """A model file's bytes, if they are the ones recorded.

    Raises:
        ModelCorruptError: they are not, or cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError:
        msg = "the stored model file cannot be read"
        raise ModelCorruptError(msg) from None
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        msg = f"the stored model file no longer has its digest {digest}"
        raise ModelCorruptError(msg)
    return data


def clean_message(error: Exception) -> str:
    """The runtime's message without paths of the machine it was built on, in one printable line."""
    text = _PATHS.sub("", " ".join(str(error).split()))
    text = text.rpartition("] : ")[2] if text.startswith("[ONNXRuntimeError]") else text
    return "".join(char if char.isprintable() else "?" for char in text)[:_MESSAGE]


def _specs(args: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """The runtime's words for tensors in ours; what is no tensor keeps the runtime's type."""
    return tuple(
        TensorSpec(
            arg.name,
            _DATATYPES.get(arg.type, arg.type),
            tuple(axis if isinstance(axis, int) and axis >= 0 else None for axis in arg.shape),
        )
        for arg in args
    )
