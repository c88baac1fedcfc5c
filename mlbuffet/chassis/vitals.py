"""What a process uses of the machine, and how often the garbage collector ran: Prometheus' names, added up over all.

https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics. A process writes its own numbers into the
tally, again and again; one that is no more leaves behind what it has used, and no gauges.
"""

import contextlib
import gc
import os
import platform
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from mlbuffet.chassis.tally import Family, Tally, TallyCollector

_CPU = Family("process_cpu_seconds", "Processor time used")
_GC_RUNS = Family("python_gc_collections", "Runs of the garbage collector", ("generation",))
_GC_FOUND = Family("python_gc_objects_collected", "Objects that the garbage collector freed", ("generation",))
_RESIDENT = Family("process_resident_memory_bytes", "Resident memory", gauge=True)
_VIRTUAL = Family("process_virtual_memory_bytes", "Virtual memory", gauge=True)
_OPEN = Family("process_open_fds", "Open file descriptors", gauge=True)
_MOST_OPEN = Family("process_max_fds", "File descriptors that a process may have open", gauge=True, merge=max)
_THREADS = Family("process_threads", "Threads", gauge=True)
_START = Family("process_start_time_seconds", "When the oldest process began", gauge=True, merge=min)
_PROCESSES = Family("processes", "Processes of this service that answer requests", gauge=True)
_STARTS = Family("process_starts", "Processes that have begun to answer requests")
_PYTHON = Family("python_info", "Python", ("implementation", "version"), gauge=True, merge=max)
_CPU_USAGE = Family("cpu_usage", "Share of the machine's processors in use, in percent", gauge=True, merge=max)
FAMILIES = (
    _CPU, _GC_RUNS, _GC_FOUND, _RESIDENT, _VIRTUAL, _OPEN, _MOST_OPEN, _THREADS, _START, _PROCESSES, _STARTS, _PYTHON,
    _CPU_USAGE,
)  # fmt: skip

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = resource.getpagesize()
_START_FIELD, _VIRTUAL_FIELD, _RESIDENT_FIELD = 19, 20, 21  # of /proc/self/stat behind the name
_IDLE_FIELDS = slice(3, 5)  # of the first line of /proc/stat: idle, and waiting for a disk


class Vitals:
    """Of this process."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        tally.add(_STARTS, 1)
        tally.set(_PROCESSES, 1)
        tally.set(_PYTHON, 1, platform.python_implementation(), platform.python_version())
        used = time.process_time  # of all threads
        self._counters = [_Growing(tally, tally.cell(_CPU), used)]
        for number in range(len(gc.get_stats())):
            for family, word in ((_GC_RUNS, "collections"), (_GC_FOUND, "collected")):
                self._counters.append(_Growing(tally, tally.cell(family, str(number)), _gc_reader(number, word)))
        self._machine = _machine_ticks()
        self._lock = threading.Lock()
        self.measure()

    def measure(self) -> None:
        """Bring everything up to date; where no descriptor is free to look with, what was known before stands."""
        with self._lock, contextlib.suppress(OSError):
            self._measure()

    def _measure(self) -> None:
        for counter in self._counters:
            counter.measure()
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        tally = self._tally
        tally.set(_RESIDENT, int(fields[_RESIDENT_FIELD]) * _PAGE_BYTES)
        tally.set(_VIRTUAL, int(fields[_VIRTUAL_FIELD]))
        tally.set(_START, _booted_at() + int(fields[_START_FIELD]) / _TICKS)
        tally.set(_OPEN, len(list(Path("/proc/self/fd").iterdir())))
        tally.set(_MOST_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        tally.set(_THREADS, threading.active_count())
        before, self._machine = self._machine, _machine_ticks()
        passed, idle = (now - then for now, then in zip(self._machine, before, strict=True))
        if passed > 0:
            tally.set(_CPU_USAGE, round(100 * (1 - idle / passed), 1))


class VitalsCollector(Collector):
    """Of a service of one process, measured when Prometheus asks."""

    def __init__(self) -> None:
        tally = Tally()
        self._vitals = Vitals(tally)
        self._shown = TallyCollector(tally, FAMILIES)

    def collect(self) -> Iterator[Metric]:
        """What is now."""
        self._vitals.measure()
        return self._shown.collect()


class _Growing:
    """A number of this process that only grows, added to what processes before it have left in its cell."""

    def __init__(self, tally: Tally, cell: int, read: Callable[[], float]) -> None:
        self._tally = tally
        self._cell = cell
        self._read = read
        self._added = 0.0

    def measure(self) -> None:
        now = self._read()
        self._tally.cells[self._cell] += now - self._added
        self._added = now


def _gc_reader(generation: int, word: str) -> Callable[[], float]:
    return lambda: gc.get_stats()[generation][word]


def _machine_ticks() -> tuple[int, int]:
    """Time that the machine's processors have had so far, and how much of it they were idle."""
    with Path("/proc/stat").open(encoding="ascii") as stat:
        ticks = [int(text) for text in stat.readline().split()[1:9]]
    return sum(ticks), sum(ticks[_IDLE_FIELDS])


def _booted_at() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
