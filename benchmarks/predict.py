"""Predictions a second, ours beside its peers: `python -m benchmarks.predict`.

All are measured in one run, in turn, round after round, each started afresh, so that whatever else the machine does
hits all alike; what is compared are ratios within a round. A peer that cannot be measured stands in the table with the
reason, and the command ends with status 1.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders import Contender, MLServer, Ours, WrongAnswerError
from benchmarks.environments import HERE, InstallError
from benchmarks.machine import describe_machine
from benchmarks.processes import NotReadyError, cpu_seconds, end_on_sigterm, pss_bytes, tree
from benchmarks.report import Spread, facts, ratio, table, write
from benchmarks.wrk import LoadError, post

CONTENDERS: tuple[type[Contender], ...] = (Ours, MLServer)
CONNECTIONS = (32, 1)
_WARM_UP_S = 2
_SETTLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One contender in one round at one number of connections."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    pss_bytes: int


Samples = Mapping[int, Sequence[Sample]]  # by number of connections, in the order of rounds


def measure(contender: Contender, seconds: int) -> dict[int, Sample]:
    """Start a contender, check its answer, load it, stop it.

    Raises:
        NotReadyError, WrongAnswerError, LoadError: there is nothing to measure.
    """
    with contender.start() as server:
        time.sleep(_SETTLE_S)  # whatever it still loads behind its first answer
        contender.check(server.url)
        samples = {}
        for connections in CONNECTIONS:
            post(server.url, contender.body(), connections=connections, seconds=_WARM_UP_S)
            pids = tree(server.pid)
            before = cpu_seconds(pids)
            load = post(server.url, contender.body(), connections=connections, seconds=seconds)
            cpu_us = (cpu_seconds(pids) - before) / load.requests * 1e6
            samples[connections] = Sample(load.per_second, load.p50_ms, load.p99_ms, cpu_us, pss_bytes(pids))
        contender.check(server.url)
    return samples


def run(contenders: Sequence[Contender], rounds: int, seconds: int) -> tuple[dict[str, Samples], dict[str, str]]:
    """Measure all in turn; returns samples by name, and reasons for those that have none."""
    samples: dict[str, dict[int, list[Sample]]] = {c.name: {n: [] for n in CONNECTIONS} for c in contenders}
    missing: dict[str, str] = {}
    for contender in contenders:
        try:
            contender.install()
        except InstallError as error:
            missing[contender.name] = f"not installed: {error}"
    for number in range(1, rounds + 1):
        for contender in contenders:
            if contender.name in missing:
                continue
            try:
                measured = measure(contender, seconds)
            except (NotReadyError, WrongAnswerError, LoadError) as error:
                missing[contender.name] = f"not measured: {error}"
                continue
            for connections, sample in measured.items():
                samples[contender.name][connections].append(sample)
            seen = ", ".join(f"{s.per_second:,.0f}/s at {n}" for n, s in measured.items())
            print(f"round {number}: {contender.name} {seen}", file=sys.stderr)
    return {name: found for name, found in samples.items() if name not in missing}, missing


def summarise(samples: Samples) -> dict[int, dict[str, Spread]]:
    """Each quantity's median and spread over the rounds, by number of connections."""
    return {
        connections: {
            "requests_per_second": Spread.of([sample.per_second for sample in found]),
            "p50_ms": Spread.of([sample.p50_ms for sample in found]),
            "p99_ms": Spread.of([sample.p99_ms for sample in found]),
            "cpu_us_per_request": Spread.of([sample.cpu_us for sample in found]),
            "pss_mib": Spread.of([sample.pss_bytes / 2**20 for sample in found]),
        }
        for connections, found in samples.items()
    }


def ratios(samples: Mapping[str, Samples]) -> dict[str, dict[int, dict[str, Spread]]]:
    """Ours to each peer."""
    ours = samples.get(Ours.name)
    if ours is None:
        return {}
    return {
        name: {
            connections: {
                "requests_per_second": ratio(
                    [sample.per_second for sample in ours[connections]], [sample.per_second for sample in found]
                ),
                "cpu_us_per_request": ratio(
                    [sample.cpu_us for sample in ours[connections]], [sample.cpu_us for sample in found]
                ),
            }
            for connections, found in theirs.items()
        }
        for name, theirs in samples.items()
        if name != Ours.name
    }


def render(data: Mapping[str, Any], summaries: Mapping[str, dict[int, dict[str, Spread]]]) -> str:
    """The report as Markdown."""
    head = ["who", "connections", "requests/s", "p50 ms", "p99 ms", "CPU µs/request", "PSS MiB"]
    rows: list[list[object]] = [
        [name, connections, *found.values()]
        for connections in CONNECTIONS
        for name, summary in summaries.items()
        for found in [summary[connections]]
    ]
    rows += [[name, "", why, "", "", "", ""] for name, why in data["missing"].items()]
    ratio_rows = [
        [f"{Ours.name} / {name}", connections, found["requests_per_second"], found["cpu_us_per_request"]]
        for name, by_connections in data["ratios"].items()
        for connections, found in by_connections.items()
    ]
    machine, rounds = data["machine"], data["rounds"]
    text = f"""\
# Predictions a second

Made by `python -m benchmarks.predict --rounds {rounds} --seconds {data["seconds"]}`: the iris classifier, one
observation a request, a closed loop by wrk over keep-alive connections. Medians (smallest to largest) of {rounds}
rounds in turn, each server started afresh.

The load generator and the servers share the {machine["cores"]} cores: a faster server makes wrk work more too. CPU
counts all processes of the server, not wrk; PSS is the sum over them.

{table(head, rows)}

{table(["ratio", "connections", "requests/s", "CPU µs/request"], ratio_rows)}

"""
    whats = "".join(f"- {name}: {what}\n" for name, what in data["contenders"].items())
    return text + whats + facts(machine, data["versions"]) + "\n"


def main() -> None:
    """Measure, write the report, and end with 1 when a contender is missing in it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="measured per number of connections and round")
    arguments = parser.parse_args()
    end_on_sigterm()
    contenders = [make() for make in CONTENDERS]
    machine = describe_machine()
    samples, missing = run(contenders, arguments.rounds, arguments.seconds)
    summaries = {name: summarise(found) for name, found in samples.items()}
    data = {
        "machine": machine,
        "versions": {contender.name: contender.versions() for contender in contenders},
        "contenders": {contender.name: contender.what for contender in contenders},
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "missing": missing,
        "summary": summaries,
        "ratios": ratios(samples),
        "samples": samples,
    }
    write(HERE / "results", "predict", data, render(data, summaries))
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
