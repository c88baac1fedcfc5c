"""What a model more costs: requests a second of ours with 200 models loaded, against one."""

from dataclasses import dataclass

from benchmarks.contenders.contender import JSON, WrongAnswerError
from benchmarks.contenders.ours import Ours, upload
from benchmarks.processes import NotReadyError, pss_bytes, settle, tree
from benchmarks.workloads import Workload
from benchmarks.wrk import LoadError, post

MODELS = 200
_CONNECTIONS = 32


class GrowthError(RuntimeError):
    """The platform could not be loaded so far."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Rounds with one model, and with all of them."""

    one: list[float]
    many: list[float]
    one_pss_mib: float
    many_pss_mib: float


def measure(workload: Workload, rounds: int, seconds: int) -> Growth:
    """Load one model of many; the rounds with one follow those with many, on a platform of its own, to see drift.

    Raises:
        GrowthError: there is nothing to measure.
    """
    try:
        before, one_pss = _rounds(workload, 1, rounds, seconds)
        many, many_pss = _rounds(workload, MODELS, rounds, seconds)
        after, _ = _rounds(workload, 1, rounds, seconds)
    except (NotReadyError, WrongAnswerError, LoadError, OSError) as error:
        msg = f"not measured: {error}"
        raise GrowthError(msg) from error
    return Growth([(a + b) / 2 for a, b in zip(before, after, strict=True)], many, one_pss, many_pss)


def _rounds(workload: Workload, models: int, rounds: int, seconds: int) -> tuple[list[float], float]:
    ours = Ours()
    request = ours.request(workload, JSON)
    with ours.start(workload) as running:
        for number in range(1, models):
            upload(running.base, f"{workload.name}-{number}", workload.model)
        settle(running.pid)
        ours.check(running.base, workload, JSON)
        url = running.base + request.path
        post(url, request.body, request.headers, connections=_CONNECTIONS, seconds=1)
        loads = [
            post(url, request.body, request.headers, connections=_CONNECTIONS, seconds=seconds) for _ in range(rounds)
        ]
        return [load.per_second for load in loads], pss_bytes(tree(running.pid)) / 2**20
