"""What `mlbuffet up` starts: which services, and the settings of each. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mlbuffet.chassis.process import available_cores
from mlbuffet.watching import Watch


@dataclass(frozen=True, slots=True)
class Training:
    """Where scripts run: a Docker engine's address, or none, and then on this machine without isolation.

    `certificates` is the folder of an engine over TCP, `folder` where runs are kept.
    """

    engine: str = ""
    certificates: Path | None = None
    folder: Path = Path("training")


@dataclass(frozen=True, slots=True)
class Platform:
    """What `mlbuffet up` starts."""

    port: int = 8002
    grpc_port: int = 8001
    modelhosts: int = 2
    repository: Path = Path("repository")
    samples: Path | None = None
    workers: int = 0
    cores: int = field(default_factory=available_cores)
    say: Callable[[str], None] = print
    host: str = "127.0.0.1"
    watch: Watch | None = None
    training: Training | None = None

    @property
    def address(self) -> str:
        """Where it is asked from this machine, as a URL has it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - what stands for all addresses
        return f"[{host}]" if ":" in host else host


def child_settings(platform: Platform, sockets: Path) -> dict[str, dict[str, str]]:
    """Name and environment of each service; the modelhosts share the cores. Pure."""
    repository = str(platform.repository.resolve())
    services = {
        f"modelhost-{number}": {
            "MODELHOST_ID": f"modelhost-{number}",
            "MODELHOST_CHANNEL": f"unix:{sockets}/modelhost-{number}.sock",
            "MODELHOST_PORT": "0",
            "MODELHOST_REPOSITORY": repository,
            "MODELHOST_CORES": str(max(platform.cores // platform.modelhosts, 1)),
        }
        for number in range(1, platform.modelhosts + 1)
    }
    services["inferrer"] = {
        "INFERRER_HOST": platform.host,
        "INFERRER_PORT": str(platform.port),
        "INFERRER_GRPC_PORT": str(platform.grpc_port),
        "INFERRER_WORKERS": str(platform.workers),
        "INFERRER_REPOSITORY": repository,
        "INFERRER_MODELHOSTS": f"unix:{sockets}",
    }
    if platform.training is not None:
        private = trainer_folder(sockets)
        services["inferrer"] |= {
            "INFERRER_TRAINER": f"unix:{private}/trainer.sock",
            "INFERRER_TRAINER_KEY_FILE": str(private / "key"),
        }
        services["trainer"] = _trainer_settings(platform, platform.training, private)
    return services


def trainer_folder(sockets: Path) -> Path:
    """What inferrer and trainer share; apart from the modelhosts' sockets, all of which the inferrer connects to."""
    return sockets / "trainer"


def _trainer_settings(platform: Platform, training: Training, private: Path) -> dict[str, str]:
    where = {"TRAINER_ENGINES": training.engine} if training.engine else {"TRAINER_UNISOLATED": "1"}
    if training.certificates is not None:
        where["TRAINER_DOCKER_CERTS"] = str(training.certificates.resolve())
    return {
        "TRAINER_CHANNEL": f"unix:{private}/trainer.sock",
        "TRAINER_PORT": "0",
        "TRAINER_FOLDER": str(training.folder.resolve()),
        "TRAINER_INFERRER": f"http://{platform.address}:{platform.port}",
        "TRAINER_KEY_FILE": str(private / "key"),
        **where,
    }
