"""Overload in an open loop: how much of the work is wasted, how soon who is refused knows, what cold models notice.

python -m benchmarks.overload               # 20 s each → standard output
python -m benchmarks.overload --seconds 60  # as rows L11 and L12 have it
"""

import argparse
import tempfile
from http import HTTPStatus
from pathlib import Path

from benchmarks import report
from tests.faults.test_overload import BODY, COLD, DEADLINE, HOSTS, cost_s, cpu_s
from tests.harness.faults import runner_of
from tests.harness.onnx_models import constant, slow
from tests.harness.open_load import Order, Outcome, percentile_s, send
from tests.harness.platform import RunningPlatform
from tests.harness.zoo import zoo_platform

_HEAD = ("load of the hot model", "answered in time", "goodput", "refused: p50 / p99 ms", "cold: p50 / p99 ms")


def _latency(outcomes: list[Outcome]) -> str:
    return " / ".join(f"{percentile_s(outcomes, share) * 1000:.1f}" for share in (0.5, 0.99)) if outcomes else "none"


def _measure(platform: RunningPlatform, times: float, seconds: float) -> tuple[str, ...]:
    """One row: the hot model at so many times what the runners could do with a core each, cold ones beside it."""
    runners = [runner_of(platform, host, "hot") for host in HOSTS]
    cost = cost_s(platform, runners)
    before = sum(map(cpu_s, runners))
    hot_order = Order(platform.port, ("hot",), BODY, times * len(HOSTS) / cost, seconds, DEADLINE)
    cold, hot = send(Order(platform.port, COLD, '{"values": [[0]]}', 100, seconds), hot_order)
    used = sum(map(cpu_s, runners)) - before
    good = [item for item in hot if item.status == HTTPStatus.OK]
    refused = [item for item in hot if item.status == HTTPStatus.SERVICE_UNAVAILABLE]
    goodput = f"{len(good) * cost / used:.2f}"
    return f"{times:g} times", f"{len(good)} of {len(hot)}", goodput, _latency(refused), _latency(cold)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    seconds = parser.parse_args().seconds
    models = {"hot": slow()} | {name: constant(number) for number, name in enumerate(COLD)}
    with tempfile.TemporaryDirectory() as folder, zoo_platform(Path(folder), models) as platform:
        rows = [_measure(platform, times, seconds) for times in (0.1, 1, 5, 10)]
    print(report.table(_HEAD, rows))


if __name__ == "__main__":
    main()
