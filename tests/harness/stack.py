"""The stack on the two-node Swarm, deployed as the README prints it, with a client that has the first key."""

import re
from pathlib import Path
from typing import Any, Self

import requests

from mlbuffet.deploying import commands
from mlbuffet.deploying.names import newest_generation
from tests.harness import readme
from tests.harness.platform import ROOT, wait_until
from tests.harness.swarm import FOLDER, TAG, Lab, Node, run

_UP_S = 300.0
_STACK_FILE = Path("deploy/stack.yaml")
_PASSWORD = re.compile(r"user (?P<user>\w+), password (?P<password>\S+)")


class Stack:
    """A deployed stack; leaving it removes it with its secrets and volumes."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.url = f"http://{lab.first.address}"
        self.key = ""
        self.metrics_user = ("", "")
        self.quick_start: list[tuple[readme.Example, str]] = []  # the README's examples, and what each printed

    @property
    def headers(self) -> dict[str, str]:
        """What a request of the administrator's has."""
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def secret_texts(self) -> list[str]:
        """What must be nowhere but in secrets: in each a piece that is nobody else's."""
        held = [(service, path) for service in ("inferrer", "modelhost") for path in ("tls/key.pem",)]
        held += [("inferrer", "key_hash"), ("metrics", "metrics_key")]
        texts = []
        for service, path in held:
            container = self.lab.first.containers(service)[0]
            lines = self.lab.first.docker("exec", container, "cat", f"/run/secrets/{path}").splitlines()
            texts.append(next(line for line in lines if not line.startswith("-----")))
        return [*texts, self.key.partition(".")[2], self.metrics_user[1]]

    def __enter__(self) -> Self:
        """Do what the README prints."""
        try:
            for example in readme.examples((ROOT / "README.md").read_text(encoding="utf-8"), on_swarm=True):
                printed = readme.run(example, ROOT, self.lab.first.environment, _UP_S)
                self.quick_start.append((example, printed))
        except BaseException:
            self.__exit__()
            raise
        self.key = (FOLDER / "home/mlbuffet-admin.key").read_text(encoding="ascii").strip()
        shown = _PASSWORD.search(self.quick_start[0][1])
        assert shown is not None
        self.metrics_user = shown["user"], shown["password"]
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it, and what models the second node has fetched."""
        self.lab.deploy("down")
        wait_until(lambda: _is_clean(self.lab.second), 90, "the second node being free of it")
        self.lab.deploy("down", "--everything", "--yes")

    def deploy(self, *files: Path) -> str:
        """Run `docker stack deploy` with more files, as a person might; returns what it said."""
        generation = newest_generation(self.lab.first.docker("secret", "ls", "--format={{.Name}}").split())
        environment = self.lab.first.environment | commands.stack_environment(TAG, TAG, generation)
        return run(
            "sh",
            "-c",
            'exec "$@" 2>&1',
            "sh",
            *commands.deploy_stack([_STACK_FILE, *files], detach=False),
            env=environment,
            cwd=ROOT,
        )

    def service(self, name: str) -> dict[str, Any]:
        """What the engine knows of a service."""
        return self.lab.first.inspect(f"mlbuffet_{name}")[0]

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
