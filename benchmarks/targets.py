"""What was promised, and whether it was kept. Pure: from samples to verdicts.

A ratio is taken round by round, ours to theirs; where several peers or variants of one are named, the best of them in
that round counts, each peer with the settings that suit it best.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.growth import MODELS, Growth
from benchmarks.measuring import Cell, Results
from benchmarks.report import Spread, ratio

OURS = "ours"
_MLSERVER = ("mlserver", "mlserver-defaults")
_KSERVE = ("kserve", "kserve-defaults")
_PYTRITON = ("pytriton",)
_PEERS = (*_MLSERVER, *_KSERVE, *_PYTRITON, "bentoml", "litserve", "mlflow")
_LOOP = "the bare onnxruntime loop"
_RATE, _P50, _P99, _CPU, _PSS = "requests_per_second", "p50_ms", "p99_ms", "cpu_us_per_request", "pss_mib"


@dataclass(frozen=True, slots=True)
class Target:
    """Ours, divided by the best of some peers where there are such, is at least or at most the bound."""

    figure: str
    row: str
    connections: int
    quantity: str
    bound: float
    against: str = ""
    peers: tuple[str, ...] = ()
    theirs: str = ""  # the peers' quantity, where it is another one
    at_least: bool = True


TARGETS = (
    Target("iris JSON, 32 connections, requests/s", "iris JSON", 32, _RATE, 10, "MLServer", _MLSERVER),
    Target("iris JSON, 32 connections, requests/s", "iris JSON", 32, _RATE, 8, "KServe", _KSERVE),
    Target("iris JSON, 32 connections, requests/s", "iris JSON", 32, _RATE, 12, "PyTriton", _PYTRITON),
    Target("MLP 784 JSON, 32 connections, requests/s", "mlp JSON", 32, _RATE, 8, "MLServer", _MLSERVER),
    Target("MLP 784 JSON, 32 connections, requests/s", "mlp JSON", 32, _RATE, 5, "KServe", _KSERVE),
    Target("MLP 784 V2 binary, 32 connections, requests/s", "mlp binary", 32, _RATE, 8, "PyTriton", _PYTRITON),
    Target("MLP 784 V2 binary, 32 connections, requests/s", "mlp binary", 32, _RATE, 12, "KServe", _KSERVE),
    Target("iris JSON, 1 connection, p50", "iris JSON", 1, _P50, 0.4, "MLServer's", _MLSERVER, at_least=False),
    Target(
        "iris JSON, 32 connections, p99", "iris JSON", 32, _P99, 1, "MLServer's p50", _MLSERVER, _P50, at_least=False
    ),
    Target("224x224 network, V2 binary, 8 connections, rows/s", "image binary", 8, _RATE, 0.95, _LOOP),
    Target("224x224 network, V2 binary, 8 connections, rows/s", "image binary", 8, _RATE, 1.6, "the best peer", _PEERS),
    Target("3 MiB tensor, V2 binary, 8 connections, requests/s", "reduce binary", 8, _RATE, 4, "the best peer", _PEERS),
    Target("3 MiB tensor, JSON, 8 connections, requests/s", "reduce JSON", 8, _RATE, 5, "the best peer", _PEERS),
    Target("iris JSON, 32 connections, CPU of all processes, µs", "iris JSON", 32, _CPU, 25, at_least=False),
    Target("memory with one small model", "iris JSON", 32, _PSS, 0.5, "the lightest peer's", _PEERS, at_least=False),
)
_GROWTH_BOUND = 0.9


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the targets table."""

    figure: str
    target: str
    measured: Spread | None  # None when there is nothing to compare
    met: bool | None


def judge(results: Results, growth: Growth | None) -> list[Verdict]:
    """All targets, in the order of the promise."""
    grown = _paired(growth.many, growth.one) if growth else None
    figure = f"iris JSON, 32 connections, requests/s with {MODELS} models loaded"
    return [
        *(_judge(target, results) for target in TARGETS),
        _verdict(figure, f"{_GROWTH_BOUND:g} x with one", grown, _GROWTH_BOUND),
    ]


def _judge(target: Target, results: Results) -> Verdict:
    ours = results.series(Cell(target.row, OURS, target.connections), target.quantity)
    if target.against:
        measured, wanted = _paired(ours, _theirs(target, results)), f"{target.bound:g} x {target.against}"
    else:
        measured, wanted = (Spread.of(ours) if ours else None), f"{target.bound:g}"
    return _verdict(target.figure, wanted, measured, target.bound, at_least=target.at_least)


def _theirs(target: Target, results: Results) -> list[float]:
    """What ours is divided by, round by round: the best that others did."""
    if target.against == _LOOP:
        return [loop.per_second for loop in results.bare.get(target.row.split()[0], [])]
    quantity = target.theirs or target.quantity
    series = [results.series(Cell(target.row, peer, target.connections), quantity) for peer in target.peers]
    best = max if target.at_least else min
    return [best(values) for values in zip(*filter(None, series), strict=True)]


def _paired(ours: Sequence[float], theirs: Sequence[float]) -> Spread | None:
    """Ratios within the rounds that both finished."""
    return ratio(ours, theirs) if ours and len(ours) == len(theirs) else None


def _verdict(figure: str, wanted: str, measured: Spread | None, bound: float, *, at_least: bool = True) -> Verdict:
    met = None if measured is None else (measured.median >= bound if at_least else measured.median <= bound)
    return Verdict(figure, f"at {'least' if at_least else 'most'} {wanted}", measured, met)
