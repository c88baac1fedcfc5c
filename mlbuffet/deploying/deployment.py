"""What an operator does to the platform on a Swarm. Each step may be taken twice; each waits, and says how it ended."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mlbuffet.deploying import commands
from mlbuffet.deploying.engine import Engine, EngineError
from mlbuffet.deploying.names import (
    ENGINES,
    IMAGES,
    NETWORK,
    SERVICES,
    VOLUMES,
    certificates_of,
    full_name,
    image,
    is_ours,
    newest_generation,
)
from mlbuffet.deploying.progress import Service, State, describe_failures, judge, running

_LOOK_S = 1.0
_UNSUPPORTED = "Ignoring unsupported options"


class Deployment:
    """The platform on the Swarm that this machine's engine manages."""

    def __init__(self, engine: Engine, say: Callable[[str], None], timeout_s: float) -> None:
        """`timeout_s` is how long one service may take to become what it is to be."""
        self._engine = engine
        self._say = say
        self._timeout_s = timeout_s

    # What there is ------------------------------------------------------------------------------------------------

    def services(self) -> dict[str, Service]:
        """Every service of the stack by its short name."""
        present = self._engine.names(commands.SERVICES)
        names = [name for name in SERVICES if full_name(name) in present]
        if not names:
            return {}
        inspected = self._engine.ask(commands.inspect("service", map(full_name, names)))
        return dict(zip(names, map(Service.read, inspected), strict=True))

    def service(self, name: str) -> Service:
        """One service.

        Raises:
            EngineError: it is not deployed.
        """
        found = self.services().get(name)
        if found is None:
            msg = f"there is no service {full_name(name)}: mlbuffet deploy up comes first"
            raise EngineError(msg)
        return found

    def speaks_tls(self) -> bool:
        """Tell whether the edge was deployed with a certificate."""
        edge = self.services().get("edge")
        return edge is not None and "EDGE_CERTIFICATE" in edge.environment

    def tasks(self, name: str) -> list[dict[str, Any]]:
        """A service's tasks, the newest first."""
        return self._engine.ask(commands.list_tasks(name))

    def describe(self) -> list[str]:
        """Lines for a person: what runs, and what failed of late."""
        lines = []
        for name, service in self.services().items():
            tasks = self.tasks(name)
            of = "" if service.replicas is None else f" of {service.replicas}"
            update = f", last update {service.update.replace('_', ' ')}" if service.update else ""
            lines.append(f"{name}: {running(service, tasks)}{of} running, {service.tag}{update}")
            lines += [f"  {failure}" for failure in describe_failures(tasks)]
        return lines or ["nothing is deployed"]

    # What is done -------------------------------------------------------------------------------------------------

    def build(self, tag: str, *, base: str, version: str, commit: str) -> None:
        """Make every image from the repository in this folder."""
        for name in IMAGES:
            self._engine.run(commands.build_image(name, tag=tag, base=base, version=version, commit=commit))
            self._say(f"built {image(name, tag)}")

    def up(self, files: Sequence[Path], tag: str, *, engines: str | None, edge: bool) -> None:
        """Bring the stack to what its files say.

        The edge keeps its image unless it is to change, and the trainer its engines unless others are given.
        """
        present = self.services()
        edge_tag = present["edge"].tag if "edge" in present and not edge else tag
        if engines is None:
            engines = present["trainer"].environment.get(ENGINES, "") if "trainer" in present else ""
        generation = newest_generation(self._engine.names(commands.SECRETS))
        environment = commands.stack_environment(tag, edge_tag, generation, engines)
        said = self._engine.run(commands.deploy_stack(files, detach=self._engine.detaches), environment=environment)
        if _UNSUPPORTED in said:
            msg = f"the engine ignores a part of the stack: {said}"
            raise EngineError(msg)
        for name in self.services():
            self._settle(name, updating=False)

    def scale(self, name: str, replicas: int) -> None:
        """Have so many tasks of a service."""
        self.service(name)
        self._engine.run(commands.scale(name, replicas))
        self._settle(name, updating=False)

    def update(self, names: Iterable[str], tag: str) -> None:
        """Replace services by those of another tag, one after the other; all go back when one does not come.

        Raises:
            EngineError: one did not.
        """
        begun: list[tuple[str, Service]] = []
        for name, service in self._those(names):
            if service.tag == tag:
                self._say(f"{name} is {tag} already")
                continue
            begun.append((name, service))
            try:
                self._change(name, tag, previous=service.tag)
            except EngineError as error:
                self._say(str(error))
                self._go_back(begun)
                msg = f"{name} did not come as {tag}; all services are what they were"
                raise EngineError(msg) from error

    def _go_back(self, begun: Iterable[tuple[str, Service]]) -> None:
        """Undo an update; what the engine has rolled back by itself is left alone."""
        for name, before in reversed(list(begun)):
            if self.service(name).tag != before.tag:
                self._change(name, before.tag, previous="")

    def rollback(self, names: Iterable[str]) -> None:
        """Replace services by those of the tag before the last update, where there was one."""
        for name, service in reversed(list(self._those(names))):
            if service.previous:
                self._change(name, service.previous, previous="")
            else:
                self._say(f"{name} is {service.tag}, and was not updated since it was deployed or rolled back")

    def replace_certificates(self, generation: int) -> None:
        """Give the services another generation's certificates, task by task; old and new ones take each other."""
        services = self.services().items()
        begun = [(name, held) for name, held in services if set(certificates_of(name, generation)) - set(held.secrets)]
        for name, service in begun:
            self._engine.run(commands.replace_certificate(name, service.secrets, generation))
        for name, _ in begun:
            self._settle(name, updating=True)

    def put_certificate(self, path: Path) -> None:
        """Give the edge, of this node, a certificate with its key; one that speaks TLS goes on with it in seconds."""
        self._engine.feed(commands.put_certificate(self.service("edge").tag), path)
        self._say("the edge has the certificate")

    def backup(self, path: Path) -> None:
        """Copy the repository, of this node, into a file while everything goes on."""
        self._engine.save(commands.copy_repository(self.service("inferrer").tag), path)
        self._say(f"the repository is in {path}")

    def restore(self, path: Path) -> None:
        """Put a copy back into the repository; models that it does not have stay.

        Raises:
            EngineError: an inferrer runs, which would not know.
        """
        inferrer = self.service("inferrer")
        if inferrer.replicas or running(inferrer, self.tasks("inferrer")):
            msg = "the repository is in use: mlbuffet deploy scale inferrer=0 comes first, and inferrer=2 afterwards"
            raise EngineError(msg)
        self._engine.feed(commands.fill_repository(inferrer.tag), path)
        self._say(f"the repository has what was in {path}")

    def down(self) -> None:
        """Remove the stack, and wait until nothing of it runs here."""
        if self._engine.names(commands.SERVICES):
            self._engine.run(commands.remove_stack())
        self._wait(lambda: not self._engine.names(commands.SERVICES), "the services being gone")
        self._wait(lambda: not self._engine.names(commands.CONTAINERS), "the containers on this node being gone")

    def remove_everything(self) -> None:
        """Remove what outlives the stack: secrets, network, and this node's volumes with all models."""
        kept = {
            "secret": {name for name in self._engine.names(commands.SECRETS) if is_ours(name)},
            "network": {NETWORK} & self._engine.names(commands.NETWORKS),
            "volume": set(VOLUMES) & self._engine.names(commands.VOLUMES),
        }
        for kind, names in kept.items():
            if names:
                self._engine.run(commands.remove(kind, sorted(names)))

    # How ------------------------------------------------------------------------------------------------------------

    def _those(self, names: Iterable[str]) -> list[tuple[str, Service]]:
        """Services that are deployed, in the order of an update."""
        wanted = set(names)
        return [(name, service) for name, service in self.services().items() if name in wanted]

    def _change(self, name: str, tag: str, *, previous: str) -> None:
        self._engine.run(commands.update_image(name, tag, previous))
        self._settle(name, updating=True)

    def _settle(self, name: str, *, updating: bool) -> None:
        """Wait until a service is what it is to be.

        Raises:
            EngineError: it will not be, or takes too long.
        """
        ends_at = time.monotonic() + self._timeout_s
        while True:
            service, tasks = self.service(name), self.tasks(name)
            state = judge(service, tasks, updating=updating)
            if state is State.SETTLED:
                self._say(f"{name}: {running(service, tasks)} running, {service.tag}")
                return
            late = time.monotonic() > ends_at
            if late or state is State.FAILED:
                why = f"not there after {self._timeout_s:g} s" if late else service.update.replace("_", " ")
                msg = "\n".join([f"{name}: {why}", *describe_failures(tasks)])
                raise EngineError(msg)
            time.sleep(_LOOK_S)

    def _wait(self, is_so: Callable[[], bool], what: str) -> None:
        ends_at = time.monotonic() + self._timeout_s
        while not is_so():
            if time.monotonic() > ends_at:
                msg = f"waited {self._timeout_s:g} s for {what}"
                raise EngineError(msg)
            time.sleep(_LOOK_S)
