"""Finds out while a model warms up how it runs best: on how many threads, and how many rows at once, if at all."""

import itertools
import time
from collections.abc import Callable

import numpy as np
from numpy.random import default_rng  # numpy imports it when first used, and a runner can import nothing by then

from mlbuffet.errors import MLBuffetError
from modelhost.batching import best_limit
from modelhost.runtimes.onnx import DTYPES, Feeds, OnnxModel, Terminated
from modelhost.sizing import FAST_S, pays_off
from modelhost.tasks import RunnerTask, Tuning

_ROWS = 4
_BUDGET_S = 0.05
_REPEATS, _REPEATS_S = 5, 0.002  # a run of microseconds is repeated until whatever disturbed the first ones is over
_LONG_S = 2.0  # a model that runs so long is not tried once more with other threads: loading must end
_TOLERANCE = 1e-4


def warm_up(data: bytes, task: RunnerTask) -> tuple[OnnxModel, Tuning, str]:
    """Load a model and run it; returns how it is to be run, and why made-up inputs were refused, or nothing.

    Raises:
        InvalidModelError, ResourceLimitError: it does not load.
    """
    threads = task.threads or 1
    model = OnnxModel(data, threads)
    began = time.perf_counter()
    warning = model.try_out()
    if task.tuned:
        return model, Tuning(threads, task.batch_rows, None), warning
    run_s = None if warning else _run_s(model, time.perf_counter() - began)
    if not task.threads and run_s is not None and FAST_S <= run_s < _LONG_S:
        faster = _on_threads(data, task.most_threads, model, run_s)
        if faster is not None:
            (model, run_s), threads = faster, task.most_threads
    return model, Tuning(threads, batch_limit(model, task.batch_rows), run_s), warning


def _run_s(model: OnnxModel, first_s: float) -> float | None:
    """How long a run on made-up inputs takes, in seconds, when the first one took `first_s`; None where it fails."""
    if first_s > _LONG_S:
        return first_s
    try:
        feeds, names = model.trial_feeds(), [spec.name for spec in model.signature.outputs]
        return _least_s(lambda: model.run(feeds, names))
    except MLBuffetError:
        return None


def _on_threads(data: bytes, threads: int, single: OnnxModel, one_s: float) -> tuple[OnnxModel, float] | None:
    """The model on so many threads and how long it runs there, when that is worth the cores."""
    try:
        model = OnnxModel(data, threads)
        run_s = None if model.try_out() else _run_s(model, 0)
    except (MLBuffetError, MemoryError):
        return None  # there is no room for two at once
    if run_s is None:
        return None
    # Once more on one thread: the machine may have been busy with something else the first time.
    one_s = min(one_s, _run_s(single, 0) or one_s)
    return (model, run_s) if pays_off(one_s, run_s, threads) else None


def batch_limit(model: OnnxModel, asked: int) -> int:
    """The most rows to run at once, as asked for or else measured; 1 where requests are not to be joined.

    They may be when every input and output has a first axis of any length, and rows run together give what each gives
    alone: a model may sort, sum or normalise along that axis.
    """
    specs = (*model.signature.inputs, *model.signature.outputs)
    if asked == 1 or not model.signature.inputs or any(not spec.shape or spec.shape[0] is not None for spec in specs):
        return 1
    if any(spec.datatype == "BYTES" for spec in model.signature.inputs):
        return 1
    try:
        if not _rows_are_independent(model):
            return 1
        return asked or _best_limit(model)
    except (MLBuffetError, Terminated):
        return 1


def _best_limit(model: OnnxModel) -> int:
    best = best_limit(lambda size: _time_of(model, size), _BUDGET_S)
    # Larger ones were tried too, on a busy machine more of them: what they took would never be used again.
    model.give_back(_feeds(model, 1), [spec.name for spec in model.signature.outputs])
    return best


def _feeds(model: OnnxModel, rows: int) -> Feeds:
    """Made-up rows, each different."""
    rng = default_rng(0)
    feeds = {}
    for spec in model.signature.inputs:
        shape = [rows, *(1 if axis is None else axis for axis in spec.shape[1:])]
        dtype = DTYPES[spec.datatype]
        values = rng.random(shape, np.float32) if dtype.kind == "f" else rng.integers(0, 2, shape)
        feeds[spec.name] = values.astype(dtype)
    return feeds


def _rows_are_independent(model: OnnxModel) -> bool:
    names = [spec.name for spec in model.signature.outputs]
    feeds = _feeds(model, _ROWS)
    together = model.run(feeds, names)
    for row in range(_ROWS):
        alone = model.run({name: values[row : row + 1] for name, values in feeds.items()}, names)
        for whole, part in zip(together, alone, strict=True):
            if len(whole) != _ROWS or not _equal(np.asarray(whole[row : row + 1]), np.asarray(part)):
                return False
    return True


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape or one.dtype.kind != other.dtype.kind:
        return False
    if one.dtype.kind == "f":
        return bool(np.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True))
    return bool((one == other).all())


def _time_of(model: OnnxModel, rows: int) -> float:
    """How long so many rows run, in seconds."""
    names = [spec.name for spec in model.signature.outputs]
    feeds = _feeds(model, rows)
    return _least_s(lambda: model.run(feeds, names))


def _least_s(run: Callable[[], object]) -> float:
    """The least of a few runs, in seconds; fewer of what takes long."""
    best_s = float("inf")
    began = start = time.perf_counter()
    for count in itertools.count(1):
        run()
        ended = time.perf_counter()
        best_s, began = min(best_s, ended - began), ended
        if ended - start > (_REPEATS_S if count >= _REPEATS else _BUDGET_S):
            break
    return best_s
