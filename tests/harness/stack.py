"""The stack on the two-node Swarm, deployed as the README prints it, with a client that has the first key."""

import json
import re
from pathlib import Path
from typing import Any, Self

import requests

from mlbuffet.deploying import commands
from mlbuffet.deploying.names import newest_generation
from tests.harness import readme
from tests.harness.onnx_models import constant
from tests.harness.platform import ROOT, wait_until
from tests.harness.steady_load import Order, SteadyLoad
from tests.harness.swarm import FOLDER, TAG, Lab, Node, run

IRIS = json.dumps({"values": [2, 5, 1, 4]})
_MODELHOSTS = 3
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
        held = [(service, path) for service in ("inferrer", "modelhost", "metrics") for path in ("tls/key.pem",)]
        held += [("inferrer", "key_hash"), ("metrics", "metrics_api_key")]
        held += [("trainer", path) for path in ("tls/key.pem", "engine/key.pem", "trainer_api_key")]
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
        environment = self.lab.first.environment | commands.stack_environment(TAG, TAG, generation, "")
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

    def whole(self) -> None:
        """Wait until all three modelhosts answer, of which one is on the second node."""
        wait_until(lambda: len(self.modelhosts()) == _MODELHOSTS, 90, self._what_there_is)

    def _what_there_is(self) -> str:
        """Who has answered, what the Swarm says of the tasks, and what each printed last: where some are missing."""
        first, second = self.lab.nodes
        shape = "--format={{.Name}} {{.Image}} {{.DesiredState}} {{.CurrentState}} {{.Error}}"
        tasks = first.docker("stack", "ps", "mlbuffet", "--filter=desired-state=running", shape)
        shown = [f"three modelhosts, not only {sorted(self.modelhosts())},", tasks]
        for node, service in ((second, "mirror"), (first, "modelhost"), (first, "inferrer")):
            shown += [f"{service} {name}: {_last(node.logs(name))}" for name in node.containers(service)]
        return "\n".join(shown)

    def load(self, rate: float, least: int = 0, port: int = 80, ca: str = "") -> SteadyLoad:
        """Predictions through the edge, so many a second, by clients that never try again."""
        headers = tuple(f"{name}: {value}" for name, value in self.headers.items())
        path = "/api/v1/models/iris.onnx/prediction"
        return SteadyLoad(Order(self.lab.first.address, port, path, IRIS, rate, headers, least=least, ca=ca))

    def names(self) -> list[str]:
        """The models that there are."""
        answered = requests.get(f"{self.url}/api/v1/models", headers=self.headers, timeout=30)
        found: list[str] = answered.json()["model_list"]
        return found

    def put(self, name: str, data: bytes) -> requests.Response:
        """Upload a model."""
        url = f"{self.url}/api/v1/models/{name}"
        return requests.put(url, data=data, headers=self.headers, timeout=60)

    def put_constant(self, name: str, number: float) -> None:
        """Upload a model that answers this number, and see it do so."""
        answered = self.put(name, constant(number))
        assert answered.status_code == 201, answered.text
        assert self.answers(name, number)

    def answers(self, name: str, number: float) -> bool:
        """Tell whether a model answers this number."""
        answered = self.predict(name, [[0]])
        return answered.status_code == 200 and answered.json()["values"] == [[number]]

    def post(self, name: str, changes: dict[str, object]) -> requests.Response:
        """Change what is said of a model."""
        url = f"{self.url}/api/v1/models/{name}"
        return requests.post(url, json=changes, headers=self.headers, timeout=60)

    def delete(self, *names: str) -> None:
        """Delete models."""
        for name in names:
            requests.delete(f"{self.url}/api/v1/models/{name}", headers=self.headers, timeout=60).raise_for_status()

    def predict(self, name: str, values: object) -> requests.Response:
        """Predict by JSON."""
        url = f"{self.url}/api/v1/models/{name}/prediction"
        return requests.post(url, json={"values": values}, headers=self.headers, timeout=60)


def _last(log: str) -> str:
    """What a service has said of late, but for that it was asked whether it is there."""
    return "\n".join([line for line in log.splitlines() if '"event":"echo"' not in line][-4:])


def _is_clean(node: Node) -> bool:
    """Remove the volumes that no container holds any more; tell whether that were all."""
    if node.docker("ps", "--all", "--quiet", "--filter=label=com.docker.stack.namespace=mlbuffet"):
        return False
    volumes = node.docker("volume", "ls", "--quiet", "--filter=name=mlbuffet_").split()
    if volumes:
        node.docker("volume", "rm", *volumes)
    return True
