"""What an engine is to the trainer: a place that carries out runs, which may be away for a while.

Every call may be made again with the same run: what is there already is not made twice.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from trainer.runs import Run
from trainer.store import RunFolder


class EngineUnreachableError(Exception):
    """The engine does not answer now; what runs there may go on."""


class TrainingError(Exception):
    """The run has failed, for a reason that its owner is told."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class CancelledError(Exception):
    """Somebody has called the run off, or the trainer ends, while an engine was at work."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a script is going to run in."""

    image: str
    image_digest: str
    environment: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A script as its engine sees it."""

    state: Literal["absent", "ready", "running", "ended"]
    exit_code: int = 0
    out_of_memory: bool = False
    ran_s: float = 0.0
    lost: bool = False  # what it had written is gone: the engine was stopped meanwhile


@dataclass(frozen=True, slots=True)
class Usage:
    """What a script takes now, or has taken at most."""

    memory_bytes: int = 0
    cpu_s: float = 0.0
    pids: int = 0


class Engine(Protocol):
    """One engine. Each method may raise EngineUnreachableError."""

    address: str

    def check(self) -> Mapping[str, str]:
        """The versions of its parts, if it answers."""

    def prepare(
        self, run: Run, folder: RunFolder, say: Callable[[bytes], object], go_on: Callable[[], bool]
    ) -> Prepared:
        """Have image and requirements ready; `say` is given what is printed meanwhile.

        Raises:
            TrainingError: they cannot be had.
            CancelledError: `go_on` has said no.
        """

    def place(self, run: Run, folder: RunFolder) -> None:
        """Put the inputs where the script finds them, and have it ready to start."""

    def start(self, run: Run) -> bool:
        """Start the script, unless it has started; tells whether it is so."""

    def look(self, run: Run) -> Seen:
        """What has become of the script."""

    def usage(self, run: Run) -> Usage | None:
        """What a running script takes; None when it is not running."""

    def output(self, run: Run) -> Generator[bytes, None, None]:
        """All that the script has printed, from the beginning, and what it will."""

    def stop(self, run: Run) -> None:
        """Ask the script to end, and make it a moment later."""

    def take(self, run: Run, folder: RunFolder) -> bytes:
        """Copy the model of a script that has ended to `folder.model`; returns its file of metrics.

        Raises:
            TrainingError: there is none, or not one.
        """

    def clean(self, run_id: str) -> None:
        """Remove all that is left of a run; nothing is fine too."""

    def sweep(self, is_wanted: Callable[[str], bool]) -> None:
        """Remove what is left of runs that are not wanted; asked when it is known what there is."""
