"""What the platform said yes to, and what of it a power cut would lose: row U15 and its negative control."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import requests

from tests.harness import onnx_models
from tests.harness.invariants import check_repository, golden
from tests.harness.platform import RunningPlatform, copy_samples
from tests.harness.power_cut import materialise, record_all, recording


def answer(platform: RunningPlatform, name: str) -> object:
    """What a model answers; the error where it does not."""
    response = platform.predict(name, [0])
    return response.json()["values"][0][0] if response.status_code == 200 else response.text


def make_default(platform: RunningPlatform, name: str, version: int) -> requests.Response:
    """Make a version the default."""
    return requests.post(f"{platform.path(name)}/default", json={"default": version}, timeout=60)


@dataclass
class Acknowledged:
    """What the platform said yes to: each model's answer and description by name, and what was deleted."""

    answers: dict[str, float] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)

    def lost(self, platform: RunningPlatform) -> list[str]:
        """What of it is not there."""
        found = [
            f"{name} answers {answer(platform, name)}"
            for name, value in self.answers.items()
            if answer(platform, name) != value
        ]
        for name, text in self.descriptions.items():
            shown = requests.get(platform.path(name), timeout=10).json().get("description")
            if shown != text:
                found.append(f"{name} is described {shown!r}")
        return found + [f"{name} is back" for name in self.deleted if name in platform.names()]


def _changes(platform: RunningPlatform, said: Acknowledged) -> Iterator[str]:
    """One change of each kind, acknowledged; yields after each what it was."""

    def put(name: str, value: int) -> None:
        assert platform.put(name, onnx_models.constant(value)).status_code == 201
        said.answers[name] = value

    put("a.onnx", 1)
    yield "upload"
    put("a.onnx", 2)
    yield "replace"
    put("b.onnx", 3)
    assert make_default(platform, "a.onnx", 1).status_code == 200
    said.answers["a.onnx"] = 1
    yield "roll back"
    changed = requests.post(platform.path("a.onnx"), json={"model_description": "größer ✓"}, timeout=10)
    assert changed.status_code == 200
    said.descriptions["a.onnx"] = "größer ✓"
    yield "describe"
    assert requests.delete(platform.path("b.onnx"), timeout=10).status_code == 200
    del said.answers["b.onnx"]
    said.deleted.add("b.onnx")
    yield "delete"
    assert requests.delete(platform.path("a.onnx:2"), timeout=10).status_code == 200
    yield "delete a version"
    (platform.repository / "flat.onnx").write_bytes(onnx_models.constant(4))
    report = requests.get(f"{platform.url}/api/v1/updatemodels", timeout=20).json()
    assert report["adopted"] == ["flat.onnx:1"]
    said.answers["flat.onnx"] = 4
    yield "adopt a file"
    folder = platform.repository / "folder.onnx" / "3"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(onnx_models.constant(5))
    report = requests.get(f"{platform.url}/api/v1/updatemodels", timeout=20).json()
    assert report["adopted"] == ["folder.onnx:3"]
    said.answers["folder.onnx"] = 5
    yield "adopt a folder"


def lost_by_power_cuts(tmp_path: Path, *, defect: str = "") -> list[str]:
    """Cut the power after each acknowledged change; returns what was lost."""
    repository, journal = tmp_path / "repository", tmp_path / "journal"
    repository.mkdir()
    copy_samples(repository)
    record_all(journal, repository)
    said, stages = Acknowledged(), []
    with RunningPlatform(
        repository, modelhosts=1, environment=recording(journal, repository, defect=defect)
    ) as platform:
        for number, what in enumerate(_changes(platform, said)):
            left = tmp_path / f"left-{number}"
            materialise(journal, repository, left)
            copy = Acknowledged(dict(said.answers), dict(said.descriptions), set(said.deleted))
            stages.append((what, left, copy))
    lost = []
    for what, left, expected in stages:
        with RunningPlatform(left, modelhosts=1, workers=1) as platform:
            lost += [f"after {what}: {item}" for item in expected.lost(platform)]
            if not defect:
                check_repository(left)
                golden(platform)
                shown = requests.get(platform.path("a.onnx"), timeout=5).json()["versions"]
                versions = {item["version"] for item in shown}
                assert what != "delete a version" or versions == {1}
                # A version number that was given is not given again.
                again = platform.put("a.onnx", onnx_models.constant(99))
                assert again.json()["version"] == (2 if what == "upload" else 3)
    return lost
