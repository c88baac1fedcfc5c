"""Modelhosts without the repository beside a running platform: over TCP, with a folder of their own."""

from collections.abc import Mapping
from pathlib import Path

from tests.harness.invariants import hosted
from tests.harness.platform import RunningPlatform, free_port, wait_until


def add_mirror(platform: RunningPlatform, name: str, folder: Path, tls: Mapping[str, Path] | None = None) -> str:
    """Settings for one more modelhost, which the inferrer has to be started with; returns its address."""
    place = f"tcp://127.0.0.1:{free_port()}"
    platform.settings[name] = {
        "MODELHOST_ID": name,
        "MODELHOST_CHANNEL": place,
        "MODELHOST_PORT": "0",
        "MODELHOST_REPOSITORY": str(folder),
        "MODELHOST_MIRROR": "1",
        "MODELHOST_CORES": "1",
        **({"MODELHOST_TLS_FOLDER": str(tls["modelhost"])} if tls else {}),
    }
    inferrer = platform.settings["inferrer"]
    inferrer["INFERRER_MODELHOSTS"] += f",{place}"
    if tls:
        inferrer["INFERRER_TLS_FOLDER"] = str(tls["inferrer"])
    return place


def cached(folder: Path) -> list[Path]:
    """The files of bytes that a mirror has, whole or not."""
    return sorted((folder / ".mlbuffet" / "cache").glob("*"))


def wait_loaded(platform: RunningPlatform, name: str, model: str, version: int) -> None:
    """Wait until a modelhost has a version loaded."""
    wanted = (model, version, "READY")
    wait_until(
        lambda: wanted in [(item["model"], item["version"], item["state"]) for item in hosted(platform, name)],
        what=f"{model}:{version} being loaded at {name}",
    )
