"""How far a service is, by the engine's word on it and on its tasks. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mlbuffet.deploying.names import PREVIOUS_LABEL, tag_of

_ERRORS_SHOWN = 5
_DETACHES = (1, 45)  # Docker 26
_UNDER_WAY = frozenset({"updating", "rollback_started"})
_STOPPED = frozenset({"paused", "rollback_paused", "rollback_completed"})


class State(Enum):
    """What there is to do about a service."""

    WAITING = "not there yet"
    SETTLED = "as it should be"
    FAILED = "it will not come"


@dataclass(frozen=True, slots=True)
class Service:
    """A service as the Swarm has it."""

    name: str
    tag: str
    previous: str  # tag, before the last update; empty without one
    replicas: int | None  # None: one on each node that suits
    update: str  # the state of the last update, empty without one
    secrets: tuple[str, ...]
    environment: Mapping[str, str]

    @classmethod
    def read(cls, inspected: Mapping[str, Any]) -> "Service":
        """Read what `docker service inspect` tells."""
        spec = inspected["Spec"]
        container = spec["TaskTemplate"]["ContainerSpec"]
        replicated = spec["Mode"].get("Replicated")
        return cls(
            name=spec["Name"],
            tag=tag_of(container["Image"]),
            previous=spec.get("Labels", {}).get(PREVIOUS_LABEL, ""),
            replicas=None if replicated is None else replicated.get("Replicas", 1),
            update=(inspected.get("UpdateStatus") or {}).get("State", ""),
            secrets=tuple(secret["SecretName"] for secret in container.get("Secrets") or ()),
            environment=dict(word.split("=", 1) for word in container.get("Env") or () if "=" in word),
        )


def running(service: Service, tasks: Sequence[Mapping[str, Any]]) -> int:
    """How many tasks run that are to, by the image that the service has now."""
    return sum(
        task["DesiredState"] == "Running"
        and task["CurrentState"].startswith("Running")
        and tag_of(task["Image"]) == service.tag
        for task in tasks
    )


def judge(service: Service, tasks: Sequence[Mapping[str, Any]], *, updating: bool) -> State:
    """Tell whether to go on waiting; `updating`: tasks are to be replaced, which may not have begun."""
    if service.update in _STOPPED:
        return State.FAILED
    wanted = [task for task in tasks if task["DesiredState"] in {"Running", "Ready"}]
    if service.update in _UNDER_WAY or (updating and wanted and service.update != "completed"):
        return State.WAITING
    enough = len(wanted) if service.replicas is None else service.replicas
    return State.SETTLED if running(service, tasks) == enough == len(wanted) else State.WAITING


def describe_failures(tasks: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the last tasks failed with, a line for each."""
    failed = [task for task in tasks if task.get("Error")]
    return [f"{task['Name']} on {task['Node']}: {task['Error']}" for task in failed[:_ERRORS_SHOWN]]


def api_version(versions: Mapping[str, Any]) -> str:
    """The version of the API that client and engine both know; empty where the client's own will do."""
    theirs = (versions.get("Server") or {}).get("ApiVersion", "")
    return theirs if theirs and _number(theirs) < _client(versions) else ""


def asks_to_detach(versions: Mapping[str, Any]) -> bool:
    """Tell whether the client's `stack deploy` has the option, and will wait for ever without it."""
    return _client(versions) >= _DETACHES


def _client(versions: Mapping[str, Any]) -> tuple[int, ...]:
    client = versions.get("Client") or {}
    # `ApiVersion` is what it has agreed upon with the engine.
    return _number(client.get("DefaultAPIVersion") or client.get("ApiVersion", ""))


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
