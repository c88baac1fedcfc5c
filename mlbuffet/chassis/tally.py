"""Counts in mapped memory: an addition is one store, processes add up, and one that is killed loses none.

Each process has a file of its own in a folder that they share. It holds the file's lock for as long as it lives,
however it ends. The next process takes over the file of a dead one and counts on from there: so counters never fall,
files do not pile up, and gauges of the dead are told by the lock that nobody holds. A file is a sequence of series,
only ever added to:

    used u64 | spare cells | size u32 | cells u32 | name, padded to 8 bytes | f64, f64, … | size u32 | …

`used` is written last. Doubles are exact up to 2**53. What is counted on several threads would get lost: each series is
counted on one.
"""

import fcntl
import itertools
import logging
import mmap
import os
import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

_FIRST_BYTES, _MOST_BYTES = 1 << 20, 1 << 26  # sparse: what is not written to takes no memory
_USED = struct.Struct("<Q")
_HEAD = struct.Struct("<II")
_CELL_BYTES = 8
_SPARE_CELLS = 64  # at the file's beginning: where is counted what there is no room for, and shown nowhere
_BEGIN = _USED.size + _SPARE_CELLS * _CELL_BYTES
_LOCK = "lock"

Merge = Callable[[Iterable[float]], float]
Values = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """Series of one name: what they mean, their labels, and how the values of several processes become one."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    gauge: bool = False
    bounds: tuple[float, ...] = ()  # upper ones of a histogram's buckets
    merge: Merge = sum

    @property
    def cells(self) -> int:
        """How many numbers a series has: a histogram's are its buckets, that above all, and the sum."""
        return len(self.bounds) + 2 if self.bounds else 1

    def metric(self, series: Mapping[Values, Sequence[float]]) -> Metric:
        """The series as Prometheus has them."""
        if self.bounds:
            return self._histogram(series)
        kind = GaugeMetricFamily if self.gauge else CounterMetricFamily
        metric = kind(self.name, self.help, labels=self.labels)
        for values, (value,) in sorted(series.items()):
            metric.add_metric(values, value)
        return metric

    def _histogram(self, series: Mapping[Values, Sequence[float]]) -> Metric:
        metric = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        bounds = [*map(_number, self.bounds), "+Inf"]
        for values, (*counts, total) in sorted(series.items()):
            metric.add_metric(values, list(zip(bounds, itertools.accumulate(counts), strict=True)), total)
        return metric


class Tally:
    """The numbers of this process."""

    def __init__(self, folder: Path | None = None) -> None:
        """Without a folder they are nobody else's and end with the process."""
        self._folder = folder
        self._file = _take(folder) if folder is not None else -1
        self._size = max(os.fstat(self._file).st_size, _FIRST_BYTES) if folder is not None else _FIRST_BYTES
        self._map()
        self._known: dict[tuple[str, Values], int] = {}
        self._full = False
        if _used(self._memory) < _BEGIN:
            self._use(_BEGIN)
        for gauge, name, values, index, cells in _series(self._memory):
            if gauge:  # of a process that is no more
                self.cells[index : index + cells] = memoryview(bytes(cells * _CELL_BYTES)).cast("d")
            self._known[name, values] = index

    def _map(self) -> None:
        if self._file >= 0:
            os.ftruncate(self._file, self._size)
        self._memory = mmap.mmap(self._file, self._size)
        self.cells = memoryview(self._memory).cast("d")

    def _use(self, size: int) -> None:
        _USED.pack_into(self._memory, 0, size)

    def cell(self, family: Family, *values: str) -> int:
        """Where in `cells`, as it is then, a series begins; it is there from now on."""
        index = self._known.get((family.name, values))
        if index is None:
            index = self._known[family.name, values] = self._add(family, values)
        return index

    def _add(self, family: Family, values: Values) -> int:
        """Add a series behind all others."""
        name = orjson.dumps([family.gauge, family.name, *values])
        name += b" " * (-len(name) % _CELL_BYTES)
        start = _used(self._memory)
        first = start + _HEAD.size + len(name)
        end = first + family.cells * _CELL_BYTES
        while end > self._size:
            if not self._grow():
                return 1  # in what is spare
        _HEAD.pack_into(self._memory, start, len(name), family.cells)
        self._memory[start + _HEAD.size : first] = name
        self._use(end)
        return first // _CELL_BYTES

    def _grow(self) -> bool:
        """Make room for twice as much; what was mapped before are the same pages."""
        if self._file < 0 or self._size * 2 > _MOST_BYTES:
            if not self._full:
                log.warning("no room for more series", extra={"size_bytes": self._size})
            self._full = True
            return False
        self._size *= 2
        self._map()
        return True

    def counts(self, family: Family, *known: str) -> "Counts":
        """A dictionary of a family with one label, whose values lie here; those of `known` are there from the start."""
        counts = Counts(self, family)
        for value in known:
            self.cell(family, value)
        return counts

    def set(self, family: Family, value: float, *values: str) -> None:
        """Set a number."""
        index = self.cell(family, *values)  # first: it may map `cells` anew
        self.cells[index] = value

    def get(self, family: Family, *values: str) -> float:
        """What this process's file has of a series of one number."""
        index = self.cell(family, *values)
        return self.cells[index]

    def add(self, family: Family, count: float, *values: str) -> None:
        """Count."""
        index = self.cell(family, *values)
        self.cells[index] += count

    def totals(self) -> dict[str, dict[Values, list[list[float]]]]:
        """By family and labels, what each process has counted; gauges only of those that live."""
        found: dict[str, dict[Values, list[list[float]]]] = {}
        if self._folder is None:
            _collect(self._memory, found, alive=True)
            return found
        with _locked(self._folder, fcntl.LOCK_SH):
            for path in self._folder.glob("*.tally"):
                with path.open("rb") as file:
                    if os.fstat(file.fileno()).st_size:
                        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
                            _collect(memory, found, alive=_is_locked(file.fileno()))
        return found


class Counts(Counter[str]):
    """Counts by one label, each in its cell: `counts[label] += 1`."""

    def __init__(self, tally: Tally, family: Family) -> None:
        super().__init__()
        self._tally = tally
        self._family = family

    def __missing__(self, value: str) -> int:
        """What was counted before, also by a process whose file was taken over."""
        return int(self._tally.get(self._family, value))

    def __setitem__(self, value: str, count: int) -> None:
        """Store it where everybody sees it."""
        self._tally.set(self._family, count, value)


class Histogram:
    """The distribution of one thing by labels, counted on one thread."""

    __slots__ = ("_bounds", "_family", "_known", "_sum", "_tally")

    def __init__(self, tally: Tally, family: Family) -> None:
        self._tally = tally
        self._family = family
        self._bounds = family.bounds
        self._sum = len(family.bounds) + 1
        self._known: dict[str, int] = {}

    def observe(self, value: float, label: str) -> None:
        """Count a value."""
        first = self._known.get(label)
        if first is None:
            first = self._known[label] = self._tally.cell(self._family, label)
        cells = self._tally.cells
        cells[first + bisect_left(self._bounds, value)] += 1
        cells[first + self._sum] += value

    def series(self) -> dict[Values, list[float]]:
        """What this process has counted."""
        size, cells = self._family.cells, self._tally.cells
        return {(label,): list(map(float, cells[first : first + size])) for label, first in list(self._known.items())}


class TallyCollector(Collector):
    """What all processes have counted, added up when Prometheus asks."""

    def __init__(self, tally: Tally, families: Sequence[Family], is_model: Callable[[str], bool] | None = None) -> None:
        """Series of a model that `is_model` does not know any more are left out, so that there are never too many."""
        self._tally = tally
        self._families = families
        self._is_model = is_model

    def collect(self) -> Iterator[Metric]:
        """Make the families anew."""
        totals = self._tally.totals()
        for family in self._families:
            place = family.labels.index("model") if "model" in family.labels and self._is_model else None
            series = {}
            for values, found in totals.get(family.name, {}).items():
                sound = [cells for cells in found if len(cells) == family.cells and len(values) == len(family.labels)]
                if sound and (place is None or self._knows(values[place])):
                    series[values] = [family.merge(cells) for cells in zip(*sound, strict=True)]
            yield family.metric(series)

    def _knows(self, model: str) -> bool:
        return not model or self._is_model is None or self._is_model(model)


def added(series: Iterable[Sequence[float]]) -> list[float]:
    """The sum of several series, cell by cell."""
    return [sum(cells) for cells in zip(*series, strict=True)]


def _take(folder: Path) -> int:
    """A file of this process's own: that of one that is no more, or a new one."""
    with _locked(folder, fcntl.LOCK_EX):
        for number in itertools.count():
            file = os.open(folder / f"{number}.tally", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
            else:
                return file
    raise AssertionError


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Hold the folder's lock: who looks at a file's lock takes it for a moment, and that is not to be mistaken."""
    file = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, how)
        yield
    finally:
        os.close(file)


def _is_locked(file: int) -> bool:
    """Tell whether the process that counts in a file lives."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _used(memory: mmap.mmap) -> int:
    used: int = _USED.unpack_from(memory)[0]
    return min(used, len(memory))


def _series(memory: mmap.mmap) -> Iterator[tuple[bool, str, Values, int, int]]:
    """Every series in a file: whether it is a gauge, name, labels, its first cell and how many it has."""
    at, used = _BEGIN, _used(memory)
    while at < used:
        size, cells = _HEAD.unpack_from(memory, at)
        first = at + _HEAD.size + size
        gauge, name, *values = orjson.loads(memory[at + _HEAD.size : first])
        yield gauge, name, tuple(values), first // _CELL_BYTES, cells
        at = first + cells * _CELL_BYTES


def _collect(memory: mmap.mmap, found: dict[str, dict[Values, list[list[float]]]], *, alive: bool) -> None:
    """Add a file's series to those of others."""
    with memoryview(memory) as view, view.cast("d") as numbers:
        for gauge, name, values, index, cells in _series(memory):
            if alive or not gauge:
                one = list(map(float, numbers[index : index + cells]))
                found.setdefault(name, {}).setdefault(values, []).append(one)


def _number(bound: float) -> str:
    return str(float(bound))
