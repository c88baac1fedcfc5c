"""The audit log: one record for each request that changes something, and for each that was refused to.

Its records have the event `audit` and come by a logger of their own, whatever the level of the others.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from flask import g

from mlbuffet.manifest import Manifest

log = logging.getLogger("mlbuffet.audit")
log.setLevel(logging.INFO)


@dataclass(frozen=True, slots=True)
class Act:
    """Who does what: a key's id or `anonymous`, the client's address, method and route, the model's name."""

    who: str
    client: str
    method: str
    route: str
    model: str
    request_id: str


def record(act: Act, status: int, subject: Mapping[str, object]) -> None:
    """Write the one record of a request; `subject` is what it made or changed."""
    log.info("audit", extra={**asdict(act), **subject, "status": status})


def concerns(version: Manifest) -> Manifest:
    """Say which version the present request of Flask makes or changes."""
    g.subject = {"model": version.model, "version": version.version, "digest": version.digest}
    return version


def concerns_run(run_id: str, model: str | None = None) -> None:
    """Say which training run it makes or changes, and for which model where that is known."""
    g.subject = {"run": run_id, **({} if model is None else {"model": model})}


def concerns_key(key_id: str) -> None:
    """Say which key it makes or revokes."""
    g.subject = {"key": key_id}
