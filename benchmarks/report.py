"""Medians, spreads and ratios, as Markdown for people and JSON for programs."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_TENS = 10
_HUNDREDS = 100
_WIDTH = 120


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the smallest and the largest of the rounds."""

    median: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise the rounds of one quantity."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        if self.smallest == self.largest:
            return _round(self.median)
        return f"{_round(self.median)} ({_round(self.smallest)} to {_round(self.largest)})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours to theirs round by round: what slows a whole round down cancels out."""
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])


def _round(value: float) -> str:
    if value >= _HUNDREDS:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= _TENS else f"{value:.2f}"


def _plain(data: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON of any shape
    """Without dataclasses, and with as many digits as mean something."""
    return json.loads(json.dumps(data, default=asdict), parse_float=lambda digits: float(f"{float(digits):.5g}"))


def _json(value: Any, indent: int = 0) -> str:  # noqa: ANN401 - JSON of any shape
    """JSON with each thing on one line that fits there: a line for each cell, not for each number."""
    flat = json.dumps(value)
    if len(flat) + indent <= _WIDTH or not isinstance(value, dict | list):
        return flat
    inner = " " * (indent + 2)
    if isinstance(value, list):
        lines = [_json(item, indent + 2) for item in value]
    else:
        lines = [f"{json.dumps(name)}: {_json(item, indent + 2)}" for name, item in value.items()]
    start, end = "[]" if isinstance(value, list) else "{}"
    return f"{start}\n{inner}" + f",\n{inner}".join(lines) + f"\n{' ' * indent}{end}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def facts(machine: Mapping[str, Any], versions: Mapping[str, Mapping[str, str]]) -> str:
    """Machine and versions as a Markdown list."""
    lines = [
        f"- {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}",
        f"- commit {machine['commit']}, {machine['started']}, load average before {machine['load_average_before']}",
    ]
    lines += [f"- {who}: " + ", ".join(f"{k} {v}" for k, v in what.items()) for who, what in versions.items()]
    return "\n".join(lines)


def write(folder: Path, name: str, data: Mapping[str, Any], text: str) -> None:
    """Write `<name>.json` and `<name>.md`, and show the latter."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(_json(_plain(data)) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
