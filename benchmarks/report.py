"""Medians, spreads and ratios, as Markdown for people and JSON for programs."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_TENS = 10
_HUNDREDS = 100


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
        return f"{_round(self.median)} ({_round(self.smallest)} to {_round(self.largest)})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours to theirs round by round: what slows a whole round down cancels out."""
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])


def _round(value: float) -> str:
    if value >= _HUNDREDS:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= _TENS else f"{value:.2f}"


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
    (folder / f"{name}.json").write_text(json.dumps(data, indent=2, default=asdict) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
