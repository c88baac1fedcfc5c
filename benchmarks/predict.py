"""Predictions a second, ours beside its peers: `python -m benchmarks.predict`.

All are measured in one run, in turn, round after round, each started afresh, so that whatever else the machine does
hits all alike; what is compared are ratios within a round. A peer that cannot be measured stands in the tables with the
reason, and the command ends with status 1.
"""

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import growth, tables, targets
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.environments import HERE, PEERS, InstallError, python_of
from benchmarks.machine import describe_machine
from benchmarks.measuring import ROWS, Results, install, run_round
from benchmarks.processes import end_on_sigterm
from benchmarks.report import write
from benchmarks.workloads import Workload, make_workloads

_RESULTS = HERE / "results"


def main() -> None:
    """Measure, write the report, and end with 1 when a contender is missing in it that should not be."""
    arguments = _arguments()
    end_on_sigterm()
    machine, started = describe_machine(), time.monotonic()
    contenders = [make() for make in CONTENDERS if make.key in arguments.only]
    rows = [row for row in ROWS if row.workload in arguments.workloads]
    if arguments.connections:
        rows = [dataclasses.replace(row, connections=tuple(arguments.connections)) for row in rows]
    results = Results()
    install(contenders, rows, results)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        workloads = [workload for workload in make_workloads(Path(folder)) if workload.name in arguments.workloads]
        for number in range(1, arguments.rounds + 1):
            print(f"round {number} of {arguments.rounds}", file=sys.stderr)
            run_round(contenders, workloads, rows, arguments.seconds, results)
        grown = _grow(contenders, workloads, arguments.rounds, arguments.seconds, results)
    data = {
        "name": arguments.name,
        "command": " ".join(("python -m benchmarks.predict", *sys.argv[1:])),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "machine": machine,
        "contenders": {contender.key: _about(contender) for contender in contenders},
        "targets": [dataclasses.asdict(verdict) for verdict in targets.judge(results, grown)],
        "cells": tables.summarise(rows, contenders, results),
        "bare": tables.summarise_bare(results),
        "growth": grown,
    }
    write(_RESULTS, arguments.name, data, tables.render(data))
    _plot(_RESULTS / f"{arguments.name}.json")
    sys.exit(1 if results.failed else 0)


def _arguments() -> argparse.Namespace:
    keys = [make.key for make in CONTENDERS]
    names = list(dict.fromkeys(row.workload for row in ROWS))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="measured per round, row and number of connections")
    parser.add_argument("--only", nargs="+", choices=keys, default=keys, metavar="NAME", help=f"of {', '.join(keys)}")
    parser.add_argument("--workloads", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--connections", nargs="+", type=int, metavar="N", help="instead of each row's own")
    parser.add_argument("--name", default="predict", help="of the files in benchmarks/results")
    return parser.parse_args()


def _grow(
    contenders: Sequence[Contender], workloads: Sequence[Workload], rounds: int, seconds: int, results: Results
) -> growth.Growth | None:
    """The cost of many models, where ours and the small one are measured at all."""
    small = next((workload for workload in workloads if workload.name == "iris"), None)
    if small is None or not any(contender.key == targets.OURS for contender in contenders):
        return None
    try:
        return growth.measure(small, rounds, seconds)
    except growth.GrowthError as error:
        results.fail(targets.OURS, f"{growth.MODELS} models", str(error))
        return None


def _about(contender: Contender) -> Mapping[str, Any]:
    return {"name": contender.name, "what": contender.what, "versions": contender.versions()}


def _plot(data: Path) -> None:
    """Draw the figures; a report without a picture is a report."""
    try:
        python = python_of("plot")
    except InstallError as error:
        print(f"no plot: {error}", file=sys.stderr)
        return
    subprocess.run([python, PEERS / "plot" / "draw.py", data, data.with_suffix(".svg")], check=True)


if __name__ == "__main__":
    main()
