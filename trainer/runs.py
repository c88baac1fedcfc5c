"""What a training run is and how it moves. Pure: no clock, no files, no engine.

    SCHEDULED ──► RUNNING (PREPARING ► TRAINING ► REGISTERING) ──► FINISHED
        │  ▲         │
        │  └─────────┤ interrupted, and to be tried once more
        ▼            ▼
     KILLED        FAILED, KILLED

The states are those of MLflow's RunStatus.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from mlbuffet.errors import RunEndedError

Parameter = str | int | float | bool

_ID = re.compile(r"[0-9]{8}t[0-9]{6}-[0-9a-f]{8}")

# What a client is told of a run, and of what was asked for, beside limits, inputs and resources.
_SHOWN = (
    *("run_id", "state", "phase", "reason", "message", "retryable", "attempts", "cancelled"),
    *("created", "started", "training_started", "ended"),
    *("image", "image_digest", "engine", "exit_code", "model_version"),
)
_SHOWN_OF_WISH = ("model", "parameters", "description", "activate", "retries", "who", "retry_of")


class State(StrEnum):
    """Where a run is."""

    SCHEDULED = "SCHEDULED"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"

    @property
    def is_over(self) -> bool:
        """Tell whether nothing more will happen."""
        return self in {State.FINISHED, State.FAILED, State.KILLED}


class Phase(StrEnum):
    """What is being done for a run that is running."""

    PREPARING = "PREPARING"
    TRAINING = "TRAINING"
    REGISTERING = "REGISTERING"


class Reason(StrEnum):
    """Why a run has not finished; beside these, the codes with which an upload can be refused."""

    NO_MODEL = "NO_MODEL"
    SCRIPT_FAILED = "SCRIPT_FAILED"
    TIMED_OUT = "TIMED_OUT"
    OOM_KILLED = "OOM_KILLED"
    DISK_LIMIT = "DISK_LIMIT"
    PIDS_LIMIT = "PIDS_LIMIT"
    REQUIREMENTS_FAILED = "REQUIREMENTS_FAILED"
    IMAGE_UNAVAILABLE = "IMAGE_UNAVAILABLE"
    ENGINE_FAILED = "ENGINE_FAILED"
    INTERRUPTED = "INTERRUPTED"
    CANCELLED = "CANCELLED"
    REGISTRATION_FAILED = "REGISTRATION_FAILED"
    STORAGE_FULL = "STORAGE_FULL"


RETRYABLE = frozenset(
    {
        Reason.IMAGE_UNAVAILABLE,
        Reason.ENGINE_FAILED,
        Reason.INTERRUPTED,
        Reason.REGISTRATION_FAILED,
        Reason.STORAGE_FULL,
        Reason.CANCELLED,
    }
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may take."""

    timeout_s: float
    memory_bytes: int
    cpus: float


@dataclass(frozen=True, slots=True)
class Input:
    """A file that was sent with a run."""

    sha256: str
    size_bytes: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Inputs:
    """All files of a run."""

    script: Input
    requirements: Input
    dataset: tuple[Input, ...]


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run has taken."""

    max_memory_bytes: int = 0
    cpu_s: float = 0.0
    log_bytes: int = 0
    log_truncated: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for beside the files."""

    model: str
    limits: Limits
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    description: str | None = None
    activate: bool = True
    retries: int = 0
    who: str = ""
    retry_of: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run, as it stands in its file."""

    run_id: str
    wish: Wish
    inputs: Inputs
    created: str
    state: State = State.SCHEDULED
    phase: Phase | None = None
    reason: str | None = None
    message: str | None = None
    started: str | None = None  # this and the next of the present attempt
    training_started: str | None = None
    ended: str | None = None
    attempts: int = 0
    cancelled: bool = False  # somebody asked for it
    engine: str | None = None
    image: str | None = None
    image_digest: str | None = None
    environment: str | None = None
    log_start: int = 0  # where in the log the script's own output begins
    exit_code: int | None = None
    resources: Resources = Resources()
    model_version: int | None = None

    @property
    def retryable(self) -> bool:
        """Tell whether the same run may go well another time."""
        return self.state.is_over and self.reason in RETRYABLE

    @property
    def interrupted_again(self) -> bool:
        """Tell whether it has been tried as often as asked for."""
        return self.attempts > self.wish.retries

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` wrote; what a later release has added is left out.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        known = {spec.name for spec in fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        wish, inputs = dict(data["wish"]), data["inputs"]
        wish["limits"] = Limits(**wish["limits"])
        values["wish"] = Wish(**wish)
        dataset = tuple(Input(**item) for item in inputs["dataset"])
        values["inputs"] = Inputs(Input(**inputs["script"]), Input(**inputs["requirements"]), dataset)
        values["state"] = State(data["state"])
        values["phase"] = Phase(data["phase"]) if data["phase"] else None
        values["resources"] = Resources(**data["resources"])
        return cls(**values)

    def shown(self) -> dict[str, object]:
        """What a client is told."""
        wish, inputs = self.wish, asdict(self.inputs)
        for name in ("script", "requirements"):
            del inputs[name]["name"]
        told = {name: getattr(self, name) for name in _SHOWN}
        asked = {name: getattr(wish, name) for name in _SHOWN_OF_WISH}
        return told | asked | {"limits": asdict(wish.limits), "inputs": inputs, "resources": asdict(self.resources)}


def make_id(now: datetime, random: int) -> str:
    """A run's id from a UTC time and a number below 4,096: ids sort by time, to the microsecond."""
    return f"{now:%Y%m%dt%H%M%S}-{now.microsecond:05x}{random:03x}"


def timestamp(now: datetime) -> str:
    """A UTC time as it stands in a run."""
    return now.isoformat(timespec="milliseconds")


def is_run_id(text: str) -> bool:
    """Tell whether it can be the id of a run."""
    return _ID.fullmatch(text) is not None


# Moves --------------------------------------------------------------------------------------------------------------


def _check(run: Run, *states: State) -> None:
    if run.state not in states:
        msg = f"the run is {run.state}"
        raise RunEndedError(msg)


def begin(run: Run, engine: str, now: str) -> Run:
    """A place was found: what is left of an earlier attempt does not count.

    Raises:
        RunEndedError: this and every other move, in a state that it does not begin in.
    """
    _check(run, State.SCHEDULED)
    return replace(
        run,
        state=State.RUNNING,
        phase=Phase.PREPARING,
        engine=engine,
        started=now,
        training_started=None,
        reason=None,
        message=None,
        exit_code=None,
        resources=Resources(),
        attempts=run.attempts + 1,
    )


def train(run: Run, image: str, image_digest: str, environment: str, now: str) -> Run:
    """Requirements are installed; the script is about to start."""
    _check(run, State.RUNNING)
    return replace(
        run,
        phase=Phase.TRAINING,
        image=image,
        image_digest=image_digest,
        environment=environment,
        training_started=now,
    )


def register(run: Run) -> Run:
    """The script has ended well and its model lies here."""
    _check(run, State.RUNNING)
    return replace(run, phase=Phase.REGISTERING)


def finish(run: Run, version: int, now: str) -> Run:
    """The model is a version."""
    _check(run, State.RUNNING)
    return replace(run, state=State.FINISHED, phase=None, model_version=version, ended=now)


def fail(run: Run, reason: str, message: str, now: str) -> Run:
    """It has come to nothing; one that was interrupted waits again if that was asked for."""
    _check(run, State.SCHEDULED, State.RUNNING)
    if reason == Reason.INTERRUPTED and not run.interrupted_again and not run.cancelled:
        return replace(run, state=State.SCHEDULED, phase=None, engine=None, reason=reason, message=message)
    return replace(run, state=State.FAILED, phase=None, reason=reason, message=message, ended=now)


def kill(run: Run, now: str) -> Run:
    """It was called off."""
    _check(run, State.SCHEDULED, State.RUNNING)
    run = replace(run, reason=Reason.CANCELLED, message="somebody cancelled the run", cancelled=True)
    return replace(run, state=State.KILLED, phase=None, ended=now)


def cancel(run: Run, now: str) -> Run:
    """Somebody wants it to end; asked for twice it is the same.

    Raises:
        RunEndedError: it has ended otherwise, or its model is being registered.
    """
    if run.state is State.KILLED:
        return run
    if run.state is State.SCHEDULED:
        return kill(run, now)
    _check(run, State.RUNNING)
    if run.phase is Phase.REGISTERING:
        msg = "the run's model is being registered; it can no longer be cancelled"
        raise RunEndedError(msg)
    return replace(run, cancelled=True)
