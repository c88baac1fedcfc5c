"""What a Swarm needs before the stack: itself, a network, the repository's node, secrets. Made where it is missing."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mlbuffet.deploying import commands
from mlbuffet.deploying.authority import Pair, issue_engine
from mlbuffet.deploying.credentials import (
    Authorities,
    Folder,
    Secret,
    authority_secret,
    certificate_secrets,
    key_secrets,
    metrics_secrets,
    trainer_secret,
)
from mlbuffet.deploying.engine import Engine, EngineError
from mlbuffet.deploying.names import (
    AUTHORITY,
    AUTHORITY_LABEL,
    ENGINE_AUTHORITY,
    EXPIRES_LABEL,
    GATEWAY,
    KEY_HASH,
    KEYS,
    METRICS_WEB,
    NETWORK,
    ROLES,
    SUBNET,
    TRAINER_KEY,
    certificate_names,
    generations,
    newest_generation,
    pair_names,
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
        authorities = self._authorities(present)
        if not newest_generation(present):
            self._complete(authorities, max(generations(present), default=1), present)
        if TRAINER_KEY not in present:
            self._create(trainer_secret())
        key = password = ""
        if KEY_HASH not in present:
            made, key = key_secrets(self._now)
            self._replace(made, present)
        if METRICS_WEB not in present:
            made, password = metrics_secrets()
            self._replace(made, present)
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
        authorities = self._authorities(present)
        for role in ROLES:
            self._replace(certificate_secrets(authorities, role, old + 1, self._now), present)
        return old + 1

    def engine_certificate(self, addresses: Sequence[str]) -> tuple[Pair, Pair]:
        """A certificate for an engine that the trainer reaches by these, and the authority that it is to trust.

        Raises:
            EngineError: the engines' authority is not here.
        """
        authority = self._authorities(self._engine.names(commands.SECRETS)).engines
        return issue_engine(authority, addresses, self._now), authority

    def gateway(self) -> str:
        """The address by which a task on this node reaches its host.

        Raises:
            EngineError: this engine is in no Swarm.
        """
        network = self._engine.ask(commands.inspect("network", [GATEWAY]))[0]
        address: str = network["IPAM"]["Config"][0]["Gateway"]
        return address

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

    def _authorities(self, present: set[str]) -> Authorities:
        """The authorities in the operator's folder, the same as the Swarm's; made where there are none anywhere.

        Raises:
            EngineError: one of the Swarm's is another one.
        """
        services = self._authority(AUTHORITY, self._folder, present)
        return Authorities(services, self._authority(ENGINE_AUTHORITY, self._folder.engines(), present))

    def _authority(self, name: str, folder: Folder, present: set[str]) -> Pair:
        kept = folder.authority()
        if name not in present:
            kept = kept or folder.make_authority(self._now)
            self._create(authority_secret(name, kept))
            return kept
        secret = self._engine.ask(commands.inspect("secret", [name]))[0]
        if kept is None or secret["Spec"]["Labels"].get(AUTHORITY_LABEL) != kept.fingerprint:
            msg = f"the Swarm trusts an authority whose key is not in {folder.path}: bring that folder here"
            raise EngineError(msg)
        return kept

    def _complete(self, authorities: Authorities, generation: int, present: set[str]) -> None:
        """Make what a generation lacks: all of it, what was broken off, or a role that came with an update."""
        for role in ROLES:
            if not present.issuperset(pair_names(role, generation)):
                self._replace(certificate_secrets(authorities, role, generation, self._now), present)

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
