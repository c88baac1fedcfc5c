"""The stack on the two-node Swarm: network, secrets and deploy/stack.yaml, with a client that has a key."""

import secrets
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import requests
import trustme

from mlbuffet.keys import ADMIN, READ, Wish, new_key, write_keys
from tests.harness.platform import ROOT, wait_until
from tests.harness.swarm import Lab, Node

_READY_S = 120.0


class Stack:
    """A deployed stack; leaving it removes it with its secrets and volumes."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.url = f"http://{lab.first.address}"
        self.deployed = ""
        hashing_key = secrets.token_bytes(32)
        record, self.key = new_key(Wish("test", (ADMIN,)), hashing_key, datetime.now(UTC))
        reader, reader_key = new_key(Wish("metrics", (READ,)), hashing_key, datetime.now(UTC))
        self.headers = {"Authorization": f"Bearer {self.key}"}
        self.metrics_user = ("admin", secrets.token_urlsafe(24))
        self._secrets = _certificates() | {
            "key_hash": hashing_key.hex(),
            "first_keys": write_keys([record, reader], hashing_key).decode(),
            "metrics_key": reader_key,
            "metrics_users": f"userlist metrics\n  user admin insecure-password {self.metrics_user[1]}\n",
        }

    @property
    def secret_texts(self) -> list[str]:
        """What must be nowhere but in secrets: in each a piece that is nobody else's."""
        texts = [
            self.key.partition(".")[2],
            self._secrets["metrics_key"],
            self.metrics_user[1],
            self._secrets["key_hash"],
        ]
        return texts + [self._secrets[name].splitlines()[1] for name in ("inferrer_key", "modelhost_key")]

    def __enter__(self) -> Self:
        """Deploy it, and wait until it answers."""
        for name, text in self._secrets.items():
            self.lab.first.docker("secret", "create", f"mlbuffet_{name}", "-", input=text)
        self.deploy()
        wait_until(self._is_ready, _READY_S, "the stack being ready")
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        first = self.lab.first
        first.docker("stack", "rm", "mlbuffet")
        for node in self.lab.nodes:
            wait_until(lambda node=node: _is_clean(node), 90, f"{node.name} being free of it")  # type: ignore[misc]
        first.docker("secret", "rm", *(f"mlbuffet_{name}" for name in self._secrets))

    def deploy(self, *files: str | Path, **variables: str) -> None:
        """Run `docker stack deploy`, with more files and variables; what it said is kept."""
        options = [option for file in ("deploy/stack.yaml", *files) for option in ("--compose-file", file)]
        environment = {**self.lab.first.environment, **variables}
        done = subprocess.run(
            ["docker", "stack", "deploy", *options, "mlbuffet"],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # where it complains
            text=True,
            timeout=120,
            check=False,
        )
        self.deployed = done.stdout
        assert done.returncode == 0, done.stdout

    def _is_ready(self) -> bool:
        """Everything runs, and the edge finds inferrers."""
        counts = self.lab.first.docker("service", "ls", "--format={{.Replicas}}").split()
        numbers = [count.partition("/") for count in counts if "/" in count]
        if not numbers or any(running != wanted for running, _, wanted in numbers):
            return False
        try:
            return requests.get(f"{self.url}/health/ready", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def is_healthy(self, containers: list[str]) -> bool:
        """Tell whether all of these containers of the first node are healthy."""
        states = self.lab.first.docker("inspect", "--format={{.State.Health.Status}}", *containers).split()
        return set(states) == {"healthy"}

    def modelhosts(self) -> set[str]:
        """The modelhosts that have answered one of many questions."""
        url = f"{self.url}/api/test/sendtomodelhost"
        answered = requests.post(url, json={"data": list(range(64))}, headers=self.headers, timeout=10)
        return {item["modelhost"] for item in answered.json().get("served", [])}

    def put(self, name: str, data: bytes) -> requests.Response:
        """Upload a model."""
        url = f"{self.url}/api/v1/models/{name}"
        return requests.put(url, data=data, headers=self.headers, timeout=60)

    def predict(self, name: str, values: object) -> requests.Response:
        """Predict by JSON."""
        url = f"{self.url}/api/v1/models/{name}/prediction"
        return requests.post(url, json={"values": values}, headers=self.headers, timeout=60)


def _is_clean(node: Node) -> bool:
    """Remove the volumes that no container holds any more; tell whether that were all."""
    if node.docker("ps", "--all", "--quiet", "--filter=label=com.docker.stack.namespace=mlbuffet"):
        return False
    volumes = node.docker("volume", "ls", "--quiet", "--filter=name=mlbuffet_").split()
    if volumes:
        node.docker("volume", "rm", *volumes)
    return True


def _certificates() -> dict[str, str]:
    """One authority, and a certificate for each role."""
    authority = trustme.CA()
    made = {"ca": authority.cert_pem.bytes().decode()}
    for role in ("inferrer", "modelhost"):
        certificate = authority.issue_cert(f"mlbuffet-{role}")
        made[f"{role}_cert"] = "".join(blob.bytes().decode() for blob in certificate.cert_chain_pems)
        made[f"{role}_key"] = certificate.private_key_pem.bytes().decode()
    return made
