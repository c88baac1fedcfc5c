"""Finds out while a model warms up how many rows it runs best at once, and whether rows may be joined at all."""

import time

import numpy as np
from numpy.random import default_rng  # numpy imports it when first used, and a runner can import nothing by then

from mlbuffet.errors import MLBuffetError
from modelhost.batching import best_limit
from modelhost.runtimes.onnx import DTYPES, Feeds, OnnxModel, Terminated

_ROWS = 4
_BUDGET_S = 0.05
_REPEATS = 3
_TOLERANCE = 1e-4


def batch_limit(model: OnnxModel) -> int:
    """The most rows to run at once; 1 where requests are not to be joined.

    They may be when every input and output has a first axis of any length, and rows run together give what each gives
    alone: a model may sort, sum or normalise along that axis.
    """
    specs = (*model.signature.inputs, *model.signature.outputs)
    if not model.signature.inputs or any(not spec.shape or spec.shape[0] is not None for spec in specs):
        return 1
    if any(spec.datatype == "BYTES" for spec in model.signature.inputs):
        return 1
    try:
        return best_limit(lambda size: _time_of(model, size), _BUDGET_S) if _rows_are_independent(model) else 1
    except (MLBuffetError, Terminated):
        return 1


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
    """The least of a few runs, in seconds; only one of what takes long."""
    names = [spec.name for spec in model.signature.outputs]
    feeds = _feeds(model, rows)
    best_s = float("inf")
    for _ in range(_REPEATS):
        began = time.perf_counter()
        model.run(feeds, names)
        best_s = min(best_s, time.perf_counter() - began)
        if best_s > _BUDGET_S / 10:
            break
    return best_s
