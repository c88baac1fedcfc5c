"""What a script prints: kept as it is, up to a bound, and looked through for metrics.

It goes into a file of the run's own and nowhere else: whatever it holds, it is no record of ours. A metric is a line
`mlbuffet: metric loss=0.25 step=3`, or a line of JSON in the file that MLBUFFET_METRICS_PATH names.
"""

import binascii
import contextlib
import math
import re
import threading
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

MOST_METRICS = 10_000
_LINE_BYTES = 512
_NAME = r"[A-Za-z_][A-Za-z0-9_./-]{0,63}"
_METRIC = re.compile(rf"mlbuffet: metric ({_NAME})=(\S{{1,32}})(?: step=([0-9]{{1,12}}))?\s*", re.ASCII)
_TAIL_BYTES = 1 << 14
_MOST_STEP = 10**12


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that a script has told."""

    name: str
    value: float
    step: int | None = None


class Output:
    """Writes one run's log, and its metrics beside it. Who still reads a script's output may be late to its close."""

    def __init__(self, log: Path, metrics: Path, most_bytes: int) -> None:
        """Go on where the files end."""
        self._log: BinaryIO = log.open("ab", buffering=0)
        self._metrics = metrics
        self._most = most_bytes
        self._count = len(read_metrics(metrics))
        self._line = b""
        self._lock = threading.Lock()
        self.size = self._log.tell()  # how long the log is
        self.truncated = self.size > most_bytes

    def say(self, text: str) -> None:
        """Write a line of our own."""
        self.take(f"mlbuffet: {text}\n".encode())

    def take(self, data: bytes) -> None:
        """Keep what was printed, as far as there is room."""
        with self._lock:
            if self.truncated or self._log.closed:
                return
            room = self._most - self.size
            self._write(data[:room])
            self._look(data[:room])
            if len(data) > room:
                self._write(f"\nmlbuffet: the log is cut here, after {self._most} bytes\n".encode())
                self.truncated = True

    def keep(self, lines: bytes) -> None:
        """Keep the metrics of a file of JSON lines; what is none is left out."""
        for line in lines.splitlines():
            self._add(_from_json(line))

    def close(self) -> None:
        """Write no more."""
        with self._lock:
            self._log.close()

    def _write(self, data: bytes) -> None:
        self.size += self._log.write(data)

    def _look(self, data: bytes) -> None:
        """Find metrics in lines that may come in pieces; one that is too long holds none."""
        lines = (self._line + data).split(b"\n")
        self._line = lines.pop()[: _LINE_BYTES + 1]
        for line in lines:
            if len(line) <= _LINE_BYTES:
                self._add(_from_text(line))

    def _add(self, metric: Metric | None) -> None:
        if metric is None or self._count >= MOST_METRICS:
            return
        self._count += 1
        with self._metrics.open("ab") as file:
            file.write(orjson.dumps(asdict(metric)) + b"\n")


def printed(pieces: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """What a script has printed, from what its container did: `start` passes it on as lines of base64."""
    rest = b""
    with contextlib.closing(pieces):
        for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n")
            yield b"".join(map(_decoded, lines))
    yield _decoded(rest)


def _decoded(line: bytes) -> bytes:
    """Bytes from a line, which is cut where its container was killed; what `start` says itself is left as it is."""
    try:
        return binascii.a2b_base64(line[: len(line) // 4 * 4], strict_mode=True)
    except binascii.Error:
        return line + b"\n"


def _from_text(line: bytes) -> Metric | None:
    found = _METRIC.fullmatch(line.decode("ascii", "replace"))
    if found is None:
        return None
    try:
        value = float(found[2])
    except ValueError:
        return None
    return Metric(found[1], value, int(found[3]) if found[3] else None) if math.isfinite(value) else None


def _from_json(line: bytes) -> Metric | None:
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(data, dict):
        return None
    name, value, step = data.get("name"), data.get("value"), data.get("step")
    if not isinstance(name, str) or not re.fullmatch(_NAME, name, re.ASCII):
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return Metric(name, float(value), step if type(step) is int and 0 <= step <= _MOST_STEP else None)


def read_metrics(path: Path) -> list[dict[str, object]]:
    """The metrics that were kept; the last line may be cut where the trainer was killed."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [asdict(metric) for metric in map(_from_json, lines) if metric is not None]


def tail_of(path: Path) -> str:
    """The end of a log, for finding out why its script has failed."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _TAIL_BYTES, 0))
        return file.read().decode(errors="replace")


def pieces_of(path: Path, offset: int, piece_bytes: int = 1 << 16) -> Iterator[bytes]:
    """What stands in a log from an offset on, as far as it is written now."""
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(piece_bytes):
            yield piece
