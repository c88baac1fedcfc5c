"""The rounds: every contender in turn, with one model loaded, row after row."""

import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

from benchmarks.bare import Bare, measure_bare
from benchmarks.contenders.contender import BINARY, JSON, Contender, Running, WrongAnswerError
from benchmarks.environments import InstallError
from benchmarks.processes import CORES, NotReadyError, cpu_seconds, pss_bytes, settle, tree
from benchmarks.workloads import Workload
from benchmarks.wrk import LoadError, post

_WARM_UP_S = 1
_LONGEST_S = 10


@dataclass(frozen=True, slots=True)
class Row:
    """One line of work: a model, an encoding, and with how many connections."""

    workload: str
    encoding: str
    connections: tuple[int, ...] = (1, 8, 32, 64)

    @property
    def name(self) -> str:
        """What the report calls it."""
        return f"{self.workload} {self.encoding}"


ROWS = (
    Row("iris", JSON),
    Row("mlp", JSON),
    Row("mlp", BINARY),
    Row("image", BINARY),
    Row("reduce", BINARY),
    Row("reduce", JSON, (1, 8)),  # some take a second for one: more of them waiting in line tell nothing new
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One contender in one round, row and number of connections."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_request: float
    pss_mib: float


QUANTITIES = tuple(item.name for item in fields(Sample))


@dataclass(frozen=True, slots=True)
class Cell:
    """Whose samples they are."""

    row: str
    contender: str
    connections: int


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that was seen, in the order of rounds."""

    samples: dict[Cell, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    bare: dict[str, list[Bare]] = field(default_factory=lambda: defaultdict(list))  # by workload
    missing: dict[tuple[str, str], str] = field(default_factory=dict)  # by contender and row, with the reason
    failed: set[str] = field(default_factory=set)  # contenders with a reason that is no property of theirs

    def series(self, cell: Cell, quantity: str) -> list[float]:
        """One quantity over the rounds; nothing when the row is void."""
        if (cell.contender, cell.row) in self.missing:
            return []
        return [getattr(sample, quantity) for sample in self.samples.get(cell, [])]

    def fail(self, contender: str, row: str, reason: str) -> None:
        """Void what a contender did in a row."""
        print(f"{contender}, {row}: {reason}", file=sys.stderr)
        self.missing[contender, row] = reason
        self.failed.add(contender)


def install(contenders: Iterable[Contender], rows: Sequence[Row], results: Results) -> None:
    """Install all of them, and note those that cannot be, and what they have no form for."""
    for contender in contenders:
        try:
            contender.install()
        except InstallError as error:
            for row in rows:
                results.fail(contender.key, row.name, f"not installed: {error}")
        for row in rows:
            if row.encoding in contender.lacks:
                results.missing[contender.key, row.name] = contender.lacks[row.encoding]


def run_round(
    contenders: Sequence[Contender], workloads: Iterable[Workload], rows: Sequence[Row], seconds: int, results: Results
) -> None:
    """Measure everybody once."""
    for workload in workloads:
        for contender in contenders:
            wanted = [
                row
                for row in rows
                if row.workload == workload.name and (contender.key, row.name) not in results.missing
            ]
            if wanted:
                _serve(contender, workload, wanted, seconds, results)
        results.bare[workload.name].append(measure_bare(workload, seconds))


def _serve(
    contender: Contender, workload: Workload, rows: Sequence[Row], seconds: int, results: Results, starts: int = 2
) -> None:
    """Start a contender with one model, measure its rows, stop it. Some give themselves too little time to start."""
    try:
        with contender.start(workload) as running:
            settle(running.pid)  # whatever it still loads behind its first answer
            for row in rows:
                try:
                    _load(contender, running, workload, row, seconds, results)
                except (WrongAnswerError, LoadError) as error:
                    results.fail(contender.key, row.name, f"not measured: {error}")
    except (NotReadyError, OSError) as error:
        if starts > 1:
            _serve(contender, workload, rows, seconds, results, starts - 1)
            return
        for row in rows:
            results.fail(contender.key, row.name, f"not measured: {error}")


def _load(contender: Contender, running: Running, workload: Workload, row: Row, seconds: int, results: Results) -> None:
    """Load one row with each number of connections, and check an answer before and after.

    Raises:
        WrongAnswerError, LoadError: there is nothing to measure.
    """
    request = contender.request(workload, row.encoding)
    url = running.base + request.path
    contender.check(running.base, workload, row.encoding)
    started = time.perf_counter()
    contender.check(running.base, workload, row.encoding)
    once_s = time.perf_counter() - started
    post(url, request.body, request.headers, connections=CORES, seconds=_longer(_WARM_UP_S, CORES, once_s))
    for connections in row.connections:
        settle(running.pid)
        pids = tree(running.pid)
        before = cpu_seconds(pids)
        length_s = _longer(seconds, connections, once_s)
        load = post(url, request.body, request.headers, connections=connections, seconds=length_s)
        cpu_us = (cpu_seconds(pids) - before) / load.requests * 1e6
        sample = Sample(load.per_second, load.p50_ms, load.p99_ms, cpu_us, pss_bytes(pids) / 2**20)
        results.samples[Cell(row.name, contender.key, connections)].append(sample)
        seen = f"{load.per_second:,.1f}/s, p50 {load.p50_ms:.2f} ms, {cpu_us:,.0f} us"
        print(f"{contender.key}, {row.name}, {connections}: {seen}", file=sys.stderr)
    settle(running.pid)
    contender.check(running.base, workload, row.encoding)


def _longer(seconds: int, connections: int, once_s: float) -> int:
    """Long enough that a slow server answers each connection, were it to answer one at a time."""
    return min(max(seconds, math.ceil(1.5 * connections * once_s)), _LONGEST_S)
