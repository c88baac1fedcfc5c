"""What state a version is in, by the modelhosts' word and the operator's, in the words of the model repository. Pure.

LOADING, READY, UNLOADING, UNAVAILABLE    as Triton has them
QUARANTINED                               UNAVAILABLE to clients that know only those
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from inferrer.replica import Replica
from mlbuffet.errors import ModelUnloadedError, NotLoadedError, UnavailableError, from_code
from mlbuffet.manifest import Manifest

_BEST_FIRST = ("READY", "LOADING", "UNLOADING", "QUARANTINED", "UNAVAILABLE")


class State(NamedTuple):
    """A state, where an error is the reason its code, and how the version is run where it is loaded."""

    state: str
    code: str = ""
    reason: str = ""
    run: Mapping[str, Any] = {}


def state_on(replica: Replica, manifest: Manifest) -> State:
    """A version's state on one modelhost."""
    told = replica.versions.get(manifest.key.decode())
    if told is not None:
        return State(*told[: len(State._fields)])
    return State("UNAVAILABLE", "", "unloaded" if manifest.unloaded else "not loaded")


def state_of(manifest: Manifest, replicas: Iterable[Replica]) -> State:
    """A version's state where it is furthest among these modelhosts; what an operator has unloaded is unavailable."""
    if manifest.unloaded:
        return State("UNAVAILABLE", ModelUnloadedError.code, "unloaded")
    states = (state_on(replica, manifest) for replica in replicas)
    no_host = State("UNAVAILABLE", UnavailableError.code, "no modelhost is ready")
    return min(states, key=lambda item: _BEST_FIRST.index(item.state), default=no_host)


def check_ready(manifest: Manifest, replicas: Iterable[Replica]) -> None:
    """Return if predictions of a version are answered at once.

    Raises:
        UnavailableError: they are not, or its model would be loaded first.
    """
    state, code, reason, _ = state_of(manifest, replicas)
    if state != "READY":
        msg = f"version {manifest.version} of {manifest.model} is {state}" + (f": {reason}" if reason else "")
        raise from_code(code or NotLoadedError.code, msg)
