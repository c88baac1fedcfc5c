"""The benchmarks' own arithmetic: what is compared with what, and that nothing void is."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bare import Bare
from benchmarks.contenders import CONTENDERS, oip
from benchmarks.environments import PEERS
from benchmarks.growth import Growth
from benchmarks.measuring import Cell, Results, Sample
from benchmarks.report import Spread
from benchmarks.targets import OURS, TARGETS, Verdict, judge


def _results(rates: dict[str, list[float]], row: str = "iris JSON", connections: int = 32) -> Results:
    results = Results()
    for contender, values in rates.items():
        samples = [Sample(rate, 1.0, 2.0, 20.0, 100.0) for rate in values]
        results.samples[Cell(row, contender, connections)].extend(samples)
    return results


def _verdict(results: Results, target: str, figure: str = "iris JSON") -> Verdict:
    return next(item for item in judge(results, None) if target in item.target and figure in item.figure)


def test_a_ratio_is_taken_within_a_round_and_to_the_best_variant() -> None:
    rates = {OURS: [100.0, 50.0, 90.0], "mlserver": [10.0, 5.0, 1.0], "mlserver-defaults": [5.0, 2.0, 10.0]}
    verdict = _verdict(_results(rates), "10 x MLServer")
    assert verdict.measured == Spread(10.0, 9.0, 10.0)
    assert verdict.met is True


def test_a_ratio_below_its_bound_is_not_met() -> None:
    assert _verdict(_results({OURS: [99.0], "mlserver": [10.0]}), "10 x MLServer").met is False


def test_what_is_void_or_missing_is_neither_met_nor_compared() -> None:
    results = _results({OURS: [100.0], "mlserver": [10.0], "mlserver-defaults": [5.0]})
    results.fail("mlserver", "iris JSON", "3 of 10 requests failed")
    assert _verdict(results, "10 x MLServer").measured == Spread(20.0, 20.0, 20.0)
    results.fail(OURS, "iris JSON", "not ready")
    assert all(verdict.met is None for verdict in judge(results, None))


def test_the_lightest_peer_is_the_one_to_halve() -> None:
    results = _results({OURS: [1.0]})
    for contender, pss_mib in (("litserve", 400.0), ("pytriton", 200.0)):
        results.samples[Cell("iris JSON", contender, 32)].append(Sample(1.0, 1.0, 1.0, 1.0, pss_mib))
    assert _verdict(results, "lightest", "memory").measured == Spread(0.5, 0.5, 0.5)


def test_the_loop_and_the_growth_are_compared_with_ours() -> None:
    results = _results({OURS: [95.0]}, "image binary", 8)
    results.bare["image"].append(Bare(100.0, 1.0, 2, 1))
    assert _verdict(results, "bare", "224x224").met is True
    growth = judge(results, Growth([100.0, 100.0], [80.0, 89.0], 1.0, 2.0))[-1]
    assert (growth.measured, growth.met) == (Spread(0.845, 0.8, 0.89), False)


def test_every_peer_in_a_target_is_a_contender() -> None:
    assert {peer for target in TARGETS for peer in target.peers} | {OURS} == {make.key for make in CONTENDERS}


@pytest.mark.parametrize("path", sorted(PEERS.glob("*/requirements.txt")), ids=lambda path: path.parent.name)
def test_every_peer_is_pinned_and_names_no_host(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9._]*", line) for line in lines)


def test_an_answer_is_read_in_both_encodings() -> None:
    head = b'{"outputs":[{"name":"y","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}'
    raw = np.array([1.5, -2], "<f4").tobytes()
    binary = oip.answer(head + raw, {"inference-header-content-length": str(len(head))})
    plain = oip.answer(b'{"outputs":[{"name":"y","shape":[2],"datatype":"FP32","data":[1.5,-2]}]}', {})
    assert binary.tolist() == plain.tolist() == [1.5, -2]
