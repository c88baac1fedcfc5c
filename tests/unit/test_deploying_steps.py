"""The steps of a deployment over an engine that keeps its state in memory, and the real engine's way with programs."""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from mlbuffet.deploying import commands
from mlbuffet.deploying.commands import Command
from mlbuffet.deploying.credentials import Folder
from mlbuffet.deploying.deployment import Deployment
from mlbuffet.deploying.engine import Engine, EngineError
from mlbuffet.deploying.names import (
    KEYS,
    METRICS_ACCESS,
    ROLES,
    SERVICES,
    certificate_names,
    full_name,
    pair_names,
)
from mlbuffet.deploying.preparation import Preparation

NOW = datetime.now(UTC)
PYTHON = sys.executable


class Memory(Engine):
    """An engine that does at once what it is told; what has the tag `broken` is rolled back, as Swarm does."""

    def __init__(self) -> None:
        self.said: list[str] = []
        super().__init__(self.said.append)
        self.changes: list[Command] = []
        self.secrets: dict[str, dict[str, str]] = {}
        self.state = {"LocalNodeState": "inactive", "NodeID": "n1", "ControlAvailable": False}
        self.has_network = False
        self.services: dict[str, dict[str, Any]] = {}
        self.broken: set[str] = set()
        self.filled_in: dict[str, str] = {}

    def run(self, command: Command, *, given: bytes = b"", environment: Mapping[str, str] | None = None) -> str:
        """Do it."""
        self.changes.append(command)
        match command[1:3]:
            case ("swarm", "init"):
                self.state |= {"LocalNodeState": "active", "ControlAvailable": True}
            case ("network", "create"):
                self.has_network = True
            case ("secret", "create"):
                assert given
                assert command[-2] not in self.secrets
                labels = (word.removeprefix("--label=") for word in command if word.startswith("--label="))
                self.secrets[command[-2]] = dict(label.split("=", 1) for label in labels)
            case ("secret", "rm"):
                for name in command[3:]:
                    del self.secrets[name]
            case ("service", "update"):
                self._update(command)
            case ("stack", "deploy"):
                self.filled_in = dict(environment or {})
        return ""

    def _update(self, command: Command) -> None:
        service = self.services[command[-1]]
        tag = next(word.rpartition(":")[2] for word in command if word.startswith("--image="))
        if command[-1] in self.broken and tag == "broken":
            service["update"] = "rollback_completed"
            return
        noted = next((word.rpartition("=")[2] for word in command if word.startswith("--label-add=")), "")
        service |= {"tag": tag, "previous": noted, "update": "completed"}

    def ask(self, command: Command) -> list[dict[str, Any]]:
        """Tell of it."""
        match command[1:3]:
            case ("info", _):
                return [self.state]
            case ("secret", "inspect"):
                return [{"Spec": {"Name": name, "Labels": self.secrets[name]}} for name in command[3:]]
            case ("network", "inspect") if command[3] == "docker_gwbridge":
                return [{"IPAM": {"Config": [{"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}]}}]
            case ("network", "inspect"):
                return [{"Driver": "overlay", "IPAM": {"Config": [{"Subnet": "10.0.13.0/24"}]}}]
            case ("service", "inspect"):
                return [self._inspected(name) for name in command[3:]]
            case ("service", "ps"):
                service = self.services[command[-1]]
                task = {"Name": command[-1], "Node": "n1", "DesiredState": "Running", "CurrentState": "Running"}
                return [task | {"Image": f"x:{service['tag']}", "Error": ""}]
        raise NotImplementedError(command)

    def _inspected(self, name: str) -> dict[str, Any]:
        service = self.services[name]
        return {
            "Spec": {
                "Name": name,
                "Labels": {"mlbuffet.previous": service["previous"]},
                "TaskTemplate": {"ContainerSpec": {"Image": f"x:{service['tag']}", "Env": service.get("env")}},
                "Mode": {"Replicated": {"Replicas": 1}},
            },
            "UpdateStatus": {"State": service["update"]},
        }

    def names(self, command: Command) -> set[str]:
        """List it."""
        if command == commands.SECRETS:
            return set(self.secrets)
        if command == commands.NETWORKS:
            return {"mlbuffet_overlay"} if self.has_network else set()
        return set(self.services)

    def tags(self) -> dict[str, str]:
        """The tag of each service."""
        return {name.partition("_")[2]: service["tag"] for name, service in self.services.items()}


@pytest.fixture
def engine() -> Memory:
    return Memory()


@pytest.fixture
def preparation(engine: Memory, tmp_path: Path) -> Preparation:
    return Preparation(engine, Folder(tmp_path / "authority"), NOW)


@pytest.fixture
def deployed(engine: Memory) -> Deployment:
    """All services, by the tag 1."""
    engine.services = {full_name(name): {"tag": "1", "previous": "", "update": ""} for name in SERVICES}
    return Deployment(engine, engine.said.append, timeout_s=5)


def init(preparation: Preparation) -> tuple[str, str]:
    preparation.join_swarm("")
    preparation.make_network(encrypted=False)
    return preparation.make_secrets()


def test_an_edge_with_a_certificate_is_known_by_its_environment(engine: Memory, deployed: Deployment) -> None:
    assert not deployed.speaks_tls()
    engine.services["mlbuffet_edge"]["env"] = ["A=1", "EDGE_CERTIFICATE=/tls/edge.pem"]
    assert deployed.speaks_tls()
    del engine.services["mlbuffet_edge"]
    assert not deployed.speaks_tls()


def test_init_makes_what_is_missing_and_then_nothing(engine: Memory, preparation: Preparation) -> None:
    key, password = init(preparation)
    assert key
    assert password
    others = {"mlbuffet_ca", "mlbuffet_engine_ca", "mlbuffet_trainer_api_key", *METRICS_ACCESS}
    assert set(engine.secrets) == {*others, *KEYS, *certificate_names(1)}
    engine.changes.clear()
    assert init(preparation) == ("", "")
    assert engine.changes == [commands.label_node("n1")], "which says the same again"


def test_init_mends_what_was_broken_off(engine: Memory, preparation: Preparation) -> None:
    init(preparation)
    before = dict(engine.secrets)
    for name in ("mlbuffet_modelhost_key", "mlbuffet_key_hash"):
        del engine.secrets[name]
    assert init(preparation)[0], "another first key, which the new hashing key knows"
    assert engine.secrets.keys() == before.keys()


def test_init_gives_a_role_that_came_with_an_update_its_certificate(engine: Memory, preparation: Preparation) -> None:
    """The others stay: services have them, and a secret that is in use cannot be removed."""
    init(preparation)
    preparation.renew_certificates()
    preparation.forget_certificates(2)
    for name in pair_names("trainer", 2):
        del engine.secrets[name]
    engine.changes.clear()
    init(preparation)
    made = [command[-2] for command in engine.changes if command[1:3] == ("secret", "create")]
    assert made == [*pair_names("trainer", 2)]
    assert not [command for command in engine.changes if command[1:3] == ("secret", "rm")]


def test_an_engine_gets_a_certificate_of_the_engines_authority(engine: Memory, preparation: Preparation) -> None:
    init(preparation)
    certificate, authority = preparation.engine_certificate(["172.18.0.1", "node1"])
    assert engine.secrets["mlbuffet_engine_ca"] == {"mlbuffet.authority": authority.fingerprint}
    assert engine.secrets["mlbuffet_ca"] != engine.secrets["mlbuffet_engine_ca"]
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    x509.load_pem_x509_certificate(certificate.certificate).verify_directly_issued_by(issuer)
    assert preparation.gateway() == "172.18.0.1"


def test_init_voids_no_keys_in_passing(engine: Memory, preparation: Preparation) -> None:
    init(preparation)
    del engine.secrets["mlbuffet_metrics_api_key"]
    with pytest.raises(EngineError, match="mlbuffet_metrics_api_key is missing"):
        init(preparation)


def test_init_without_the_authority_that_the_swarm_trusts_is_refused(
    engine: Memory, preparation: Preparation, tmp_path: Path
) -> None:
    init(preparation)
    with pytest.raises(EngineError, match="bring that folder here"):
        init(Preparation(engine, Folder(tmp_path / "other"), NOW))
    other = Folder(tmp_path / "another")
    other.make_authority(NOW)
    with pytest.raises(EngineError, match="bring that folder here"):
        init(Preparation(engine, other, NOW))


def test_init_on_a_worker_is_refused(engine: Memory, preparation: Preparation) -> None:
    engine.state |= {"LocalNodeState": "active", "ControlAvailable": False}
    with pytest.raises(EngineError, match="no manager"):
        preparation.join_swarm("")


def test_certificates_are_renewed_by_the_next_generation(engine: Memory, preparation: Preparation) -> None:
    with pytest.raises(EngineError, match="init comes first"):
        preparation.renew_certificates()
    init(preparation)
    assert preparation.renew_certificates() == 2
    assert set(certificate_names(2)) <= set(engine.secrets)
    preparation.forget_certificates(2)
    assert not set(certificate_names(1)) & set(engine.secrets)
    assert set(preparation.expiry()) == {f"mlbuffet_{role}_cert_2" for role in ROLES}


def test_an_update_goes_round_once_and_back(engine: Memory, deployed: Deployment) -> None:
    names = [name for name in SERVICES if name != "edge"]
    deployed.update(names, "2")
    assert engine.tags() == dict.fromkeys(names, "2") | {"edge": "1"}
    changes = len(engine.changes)
    deployed.update(names, "2")
    assert len(engine.changes) == changes
    deployed.rollback(names)
    assert set(engine.tags().values()) == {"1"}
    changes = len(engine.changes)
    deployed.rollback(names)
    assert len(engine.changes) == changes, "a second time there is nothing to go back to"


def test_an_update_of_which_a_part_does_not_come_leaves_nothing_behind(engine: Memory, deployed: Deployment) -> None:
    engine.broken = {"mlbuffet_inferrer"}
    with pytest.raises(EngineError, match="inferrer did not come as broken"):
        deployed.update(SERVICES, "broken")
    assert set(engine.tags().values()) == {"1"}
    assert "metrics" not in " ".join(" ".join(command) for command in engine.changes)


def test_the_trainer_keeps_its_engines_until_others_are_given(engine: Memory, deployed: Deployment) -> None:
    engine.services["mlbuffet_trainer"]["env"] = ["TRAINER_FOLDER=/x", "TRAINER_ENGINES=tcp://a:2376=2"]
    deployed.up([Path("deploy/stack.yaml")], "1", engines=None, edge=False)
    assert engine.filled_in["MLBUFFET_ENGINES"] == "tcp://a:2376=2"
    deployed.up([Path("deploy/stack.yaml")], "1", engines="", edge=False)
    assert engine.filled_in["MLBUFFET_ENGINES"] == ""


def test_a_repository_in_use_is_not_written_over(engine: Memory, deployed: Deployment, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="scale inferrer=0 comes first"):
        deployed.restore(tmp_path / "copy.tar")
    assert not engine.changes


def test_what_is_not_deployed_cannot_be_scaled(engine: Memory) -> None:
    with pytest.raises(EngineError, match="up comes first"):
        Deployment(engine, engine.said.append, 1).scale("inferrer", 2)


# The real one ---------------------------------------------------------------------------------------------------------


def test_a_program_is_run_without_a_shell_and_shown_once() -> None:
    said: list[str] = []
    engine = Engine(said.append)
    command = (PYTHON, "-c", "import sys, os; print(sys.argv[1], sys.stdin.read(), os.environ['A'])", "$(id); *")
    for _ in range(2):
        assert engine.run(command, given=b"secret", environment={"A": "b c"}) == "$(id); * secret b c\n"
    assert len(said) == 1
    assert said[0].startswith(f"$ A='b c' {PYTHON} -c ")
    assert said[0].endswith("'$(id); *'")
    assert "secret" not in said[0]


def test_what_a_program_that_fails_has_said_is_told() -> None:
    engine = Engine(print)
    with pytest.raises(EngineError, match="no such thing"):
        engine.run((PYTHON, "-c", "import sys; sys.exit('no such thing')"))
    with pytest.raises(EngineError, match="is not installed"):
        engine.run(("no-such-program-here",))


def test_json_is_a_list_or_a_line_for_each() -> None:
    engine = Engine(print)
    assert engine.ask((PYTHON, "-c", "print('[{\"a\": 1}]')")) == [{"a": 1}]
    assert engine.ask((PYTHON, "-c", "print('{\"a\": 1}'); print('{\"b\": 2}')")) == [{"a": 1}, {"b": 2}]
    assert engine.names((PYTHON, "-c", "print('a'); print('b')")) == {"a", "b"}


def test_output_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    engine, path = Engine(print), tmp_path / "copy"
    engine.save((PYTHON, "-c", "print('all')"), path)
    assert path.read_text() == "all\n"
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(EngineError, match="broken"):
        engine.save((PYTHON, "-c", "print('half', flush=True); raise SystemExit('broken')"), path)
    assert path.read_text() == "all\n"
    assert [item.name for item in tmp_path.iterdir()] == ["copy"]
    engine.feed((PYTHON, "-c", "import sys; sys.exit(sys.stdin.read() != 'all\\n')"), path)


def test_a_pipe_fails_with_either_end() -> None:
    engine = Engine(print)
    good, bad = (PYTHON, "-c", "print('x')"), (PYTHON, "-c", "raise SystemExit(3)")
    read: Command = (PYTHON, "-c", "import sys; sys.exit(sys.stdin.read() != 'x\\n')")
    engine.pipe(good, read)
    with pytest.raises(EngineError):
        engine.pipe(bad, (PYTHON, "-c", "import sys; sys.stdin.read()"))
    with pytest.raises(EngineError):
        engine.pipe(good, bad)
