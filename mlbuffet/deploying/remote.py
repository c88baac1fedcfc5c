"""What an engine's machine is given so that the trainer, and nobody else, may command it over TLS.

The engine listens by its systemd socket. A `hosts` in daemon.json would contradict Debian's and Docker's unit, which
say `-H fd://`; and the address by which tasks reach their host exists only once the engine has started, which the
socket does not mind (`FreeBind`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlbuffet.deploying.authority import Pair
from mlbuffet.deploying.credentials import write_own
from mlbuffet.deploying.names import ENGINE_PORT

_THERE = "/etc/docker/mlbuffet"


def engine_files(certificate: Pair, authority: Pair, address: str) -> Mapping[str, bytes]:
    """Each file's name and content; the engine listens at the one address. Pure."""
    options = {"tlscacert": "ca.pem", "tlscert": "cert.pem", "tlskey": "key.pem"}
    settings = {"tlsverify": True} | {option: f"{_THERE}/{name}" for option, name in options.items()}
    where = f"[{address}]:{ENGINE_PORT}" if ":" in address else f"{address}:{ENGINE_PORT}"
    return {
        "ca.pem": authority.certificate,
        "cert.pem": certificate.certificate,
        "key.pem": certificate.key,
        "daemon.json": f"{json.dumps(settings, indent=2)}\n".encode(),
        "docker.socket.conf": f"[Socket]\nListenStream={where}\nFreeBind=true\n".encode(),
    }


def write_engine_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write them into a folder that nobody else may look into.

    Raises:
        OSError: they cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for name, content in files.items():
        write_own(folder / name, content)


def instructions(folder: Path, addresses: Sequence[str]) -> list[str]:
    """What is left to do by hand, for a person. Pure."""
    return [
        f"for the engine at {', '.join(addresses)}; on its machine, as root:",
        f"  {folder}/*.pem to {_THERE}/, readable for root alone",
        f"  {folder}/daemon.json to /etc/docker/daemon.json, or its lines into the one that is there",
        f"  {folder}/docker.socket.conf to /etc/systemd/system/docker.socket.d/mlbuffet.conf",
        "  systemctl daemon-reload; systemctl stop docker; systemctl restart docker.socket; systemctl start docker",
        f"then: mlbuffet deploy up --engines tcp://{addresses[0]}:{ENGINE_PORT}=1 (comma between engines, =N slots)",
    ]
