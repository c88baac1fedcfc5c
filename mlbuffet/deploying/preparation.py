"""What a Swarm needs before the stack: itself, a network, the repository's node, secrets. Made where it is missing."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mlbuffet.deploying import commands
from mlbuffet.deploying.authority import Pair
from mlbuffet.deploying.credentials import (
    Folder,
    Secret,
    authority_secret,
    certificate_secrets,
    key_secrets,
    metrics_secret,
)
from mlbuffet.deploying.engine import Engine, EngineError
from mlbuffet.deploying.names import (
    AUTHORITY,
    AUTHORITY_LABEL,
    EXPIRES_LABEL,
    KEY_HASH,
    KEYS,
    METRICS_USERS,
    NETWORK,
    SUBNET,
    certificate_names,
    generations,
    newest_generation,
)


class Preparation:
    """What is there already stays as it is."""

    def __init__(self, engine: Engine, folder: Folder, now: datetime) -> None:
        self._engine = engine
        self._folder = folder
        self._now = now

    def join_swarm(self, address: str) -> None:
        """Be a manager of a Swarm, and the repository's node.

        Raises:
            EngineError: this engine is a worker.
        """
        swarm = self._engine.ask(commands.SWARM)[0]
        if swarm["LocalNodeState"] == "inactive":
            self._engine.run(commands.init_swarm(address))
            swarm = self._engine.ask(commands.SWARM)[0]
        if not swarm.get("ControlAvailable"):
            msg = "this node is no manager of its Swarm"
            raise EngineError(msg)
        self._engine.run(commands.label_node(swarm["NodeID"]))

    def make_network(self, *, encrypted: bool) -> None:
        """Have the network.

        Raises:
            EngineError: one of its name is another one.
        """
        if NETWORK not in self._engine.names(commands.NETWORKS):
            self._engine.run(commands.create_network(encrypted=encrypted))
            return
        network = self._engine.ask(commands.inspect("network", [NETWORK]))[0]
        fault = network_fault(network, encrypted=encrypted)
        if fault:
            msg = f"there is a network {NETWORK} already, but {fault}; remove it, or do without"
            raise EngineError(msg)

    def make_secrets(self) -> tuple[str, str]:
        """Have every secret; returns the first API key and the metrics' password, empty where they were there.

        Raises:
            EngineError: some are missing without which others are of no use.
        """
        present = self._engine.names(commands.SECRETS)
        if KEY_HASH in present and (missing := sorted(set(KEYS) - present)):
            msg = (
                f"{', '.join(missing)} is missing, and can only be made with {KEY_HASH}, which would void all API keys"
            )
            raise EngineError(msg)
        authority = self._authority(present)
        if not newest_generation(present):
            self._replace(certificate_secrets(authority, 1, self._now), present)
        key = password = ""
        if KEY_HASH not in present:
            made, key = key_secrets(self._now)
            self._replace(made, present)
        if METRICS_USERS not in present:
            secret, password = metrics_secret()
            self._create(secret)
        return key, password

    def renew_certificates(self) -> int:
        """Make the next generation of certificates; returns its number.

        Raises:
            EngineError: there is none yet, or no authority.
        """
        present = self._engine.names(commands.SECRETS)
        old = newest_generation(present)
        if not old:
            msg = "there are no certificates yet: mlbuffet deploy init comes first"
            raise EngineError(msg)
        self._replace(certificate_secrets(self._authority(present), old + 1, self._now), present)
        return old + 1

    def forget_certificates(self, newest: int) -> None:
        """Remove the generations before the newest, which nobody has any more."""
        present = self._engine.names(commands.SECRETS)
        names = [name for number in generations(present) if number < newest for name in certificate_names(number)]
        if left := sorted(present.intersection(names)):
            self._engine.run(commands.remove("secret", left))

    def expiry(self) -> dict[str, str]:
        """The day on which each certificate of the newest generation is over."""
        names = certificate_names(newest_generation(self._engine.names(commands.SECRETS)))
        found = self._engine.ask(commands.inspect("secret", [name for name in names if "_cert" in name]))
        return {secret["Spec"]["Name"]: secret["Spec"]["Labels"].get(EXPIRES_LABEL, "unknown") for secret in found}

    def _authority(self, present: set[str]) -> Pair:
        """The authority in the operator's folder, the same as the Swarm's; made where there is none anywhere.

        Raises:
            EngineError: the Swarm's is another one.
        """
        kept = self._folder.authority()
        if AUTHORITY not in present:
            kept = kept or self._folder.make_authority(self._now)
            self._create(authority_secret(kept))
            return kept
        secret = self._engine.ask(commands.inspect("secret", [AUTHORITY]))[0]
        if kept is None or secret["Spec"]["Labels"].get(AUTHORITY_LABEL) != kept.fingerprint:
            msg = f"the Swarm trusts an authority whose key is not in {self._folder.path}: bring that folder here"
            raise EngineError(msg)
        return kept

    def _replace(self, secrets: Sequence[Secret], present: set[str]) -> None:
        """Make secrets that belong together; what is left of an attempt that was broken off goes first."""
        if rest := sorted(present.intersection(secret.name for secret in secrets)):
            self._engine.run(commands.remove("secret", rest))
        for secret in secrets:
            self._create(secret)

    def _create(self, secret: Secret) -> None:
        self._engine.run(commands.create_secret(secret.name, secret.labels), given=secret.content)


def network_fault(network: dict[str, Any], *, encrypted: bool) -> str:
    """What is wrong with a network of the right name; empty when nothing is. Pure."""
    subnets = [given.get("Subnet") for given in (network.get("IPAM") or {}).get("Config") or ()]
    if network.get("Driver") != "overlay":
        return "it is no overlay"
    if subnets != [SUBNET]:
        return f"its subnet is not {SUBNET}"
    if encrypted and "encrypted" not in (network.get("Options") or {}):
        return "it is not encrypted"
    return ""
