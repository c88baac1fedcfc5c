"""What a model keeps of its warm-up."""

from collections.abc import Callable
from pathlib import Path

import pytest

from modelhost import warmup
from modelhost.runtimes.onnx import OnnxModel
from tests.harness.fresh import in_fresh_process
from tests.harness.platform import SAMPLES


def anonymous_bytes() -> int:
    """What this process holds that no file backs."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def warm_up_on_a_busy_machine() -> None:
    """Times are disturbed there, and large sizes are tried until a small one is found best after all."""
    taken = []

    def try_all(time_of: Callable[[int], float], _: float) -> int:
        for size in (1, 2, 4, 8, 16, 32, 64):
            time_of(size)
            taken.append(anonymous_bytes())
        return 4

    pytest.MonkeyPatch().setattr(warmup, "best_limit", try_all)
    model = OnnxModel((SAMPLES / "pictures.onnx/1/model.onnx").read_bytes(), 1)
    assert not model.try_out()
    before = anonymous_bytes()
    assert warmup.batch_limit(model, 0) == 4
    grown = max(taken) - before
    assert grown > 4 << 20, "the larger ones did take something"
    assert anonymous_bytes() - before < grown / 2


def test_what_larger_batches_took_is_given_back() -> None:
    in_fresh_process(warm_up_on_a_busy_machine)  # what other tests took lies in the same arena
