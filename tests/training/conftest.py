"""A trainer on the lab's engine, over TLS, with a platform to register models at."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import pytest
import requests

from mlbuffet.deploying.authority import issue_client
from mlbuffet.deploying.credentials import Folder
from tests.harness.platform import ROOT, RunningPlatform, copy_samples, free_port, wait_until
from tests.harness.swarm import BASE, Lab, Node
from tests.training.asking import Asking

MB = 1 << 20
LIMITS = {
    "TRAINER_PIDS": "64",
    "TRAINER_WORK_BYTES": str(64 * MB),
    "TRAINER_WORK_FILES": "2000",
    "TRAINER_TMP_BYTES": str(16 * MB),
    "TRAINER_DATASET_BYTES": str(32 * MB),
    "TRAINER_MODEL_BYTES": str(32 * MB),
    "TRAINER_LOG_BYTES": str(MB),
    "TRAINER_MEMORY_BYTES": str(256 * MB),
    "TRAINER_TIMEOUT_S": "60",
    "TRAINER_CPUS": "0.5",
}


@dataclass
class Trainer:
    """A trainer of this machine with one engine; it can be killed and started again."""

    folder: Path
    node: Node
    engine: str
    platform: RunningPlatform
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    settings: Mapping[str, str] = field(default_factory=dict)
    image: str = BASE
    pids: int = 64
    log_bytes: int = MB

    def __post_init__(self) -> None:
        """Nothing runs yet."""
        self.port = free_port()
        self.log = self.folder / "trainer.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def asking(self) -> Asking:
        """A client of the inferrer."""
        return Asking(self.platform.url)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.process is not None
        return self.process.pid

    @property
    def inferrer(self) -> str:
        """The inferrer as host:port."""
        return f"127.0.0.1:{self.platform.port}"

    @property
    def secrets(self) -> list[str]:
        """What no script may ever see."""
        return [self.key, (self.folder / "docker/key.pem").read_text().splitlines()[1]]

    def __enter__(self) -> Self:
        """Start it, with its certificate of the engines' authority."""
        write_client(self.folder / "docker")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)

    def start(self) -> None:
        """Start it, and wait until it has seen its engine."""
        own = {
            "TRAINER_CHANNEL": f"unix:{self.folder}/trainer.sock",
            "TRAINER_PORT": str(self.port),
            "TRAINER_FOLDER": str(self.folder / "training"),
            "TRAINER_ENGINES": self.engine,
            "TRAINER_DOCKER_CERTS": str(self.folder / "docker"),
            "TRAINER_INFERRER": self.platform.url,
            "TRAINER_KEY": self.key,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trainer"],
                env={**os.environ, **own, **LIMITS, **self.settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
            )
        wait_until(self.is_live, 30, f"the trainer\n{self.log.read_text()[-3000:]}")

    def is_live(self) -> bool:
        """Tell whether it answers."""
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/health/ready", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def metric(self, name: str) -> float:
        """What it exposes under this name, over all labels."""
        lines = requests.get(f"http://127.0.0.1:{self.port}/metrics", timeout=10).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)

    def kill(self) -> None:
        """SIGKILL it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def write_client(folder: Path) -> None:
    """What the trainer shows to engines, signed by the authority that the operator keeps."""
    kept = Folder(Lab.keeps).engines().authority()
    assert kept is not None
    pair = issue_client(kept, "trainer", datetime.now(UTC))
    folder.mkdir(mode=0o700)
    for name, content in (("ca", kept.certificate), ("cert", pair.certificate), ("key", pair.key)):
        (folder / f"{name}.pem").write_bytes(content)


@contextmanager
def running_trainer(folder: Path, node: Node, engine: str, **settings: str) -> Iterator[Trainer]:
    """A trainer on a node's engine, and a platform in front of it."""
    repository = folder / "repository"
    copy_samples(repository)
    key = secrets.token_urlsafe(32)
    reach = {"INFERRER_TRAINER": f"unix:{folder}/trainer.sock", "INFERRER_TRAINER_KEY": key}
    with (
        RunningPlatform(repository, modelhosts=1, workers=1, environment=reach) as platform,
        Trainer(folder, node, engine, platform, key, settings) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def trainer(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    """A trainer with four slots on the first node's engine; each test leaves it as it was."""
    with running_trainer(tmp_path_factory.mktemp("trainer"), lab.first, f"{lab.engines[0]}=4") as running:
        yield running
