"""Counts of runs that have ended, and where their time went."""

from collections import Counter
from datetime import datetime

from trainer.runs import Run

_PHASES = ("SCHEDULED", "PREPARING", "TRAINING")


class Tally:
    """Since the trainer started."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[str, float] = dict.fromkeys(_PHASES, 0.0)

    def note(self, run: Run) -> None:
        """Count a run that has just ended."""
        self.counts[run.state.value, run.reason or ""] += 1
        moments = [run.created, run.started, run.training_started, run.ended]
        known = [datetime.fromisoformat(moment) for moment in moments if moment is not None]
        for phase, began, ended in zip(_PHASES, known, known[1:], strict=False):
            self.seconds[phase] += (ended - began).total_seconds()
