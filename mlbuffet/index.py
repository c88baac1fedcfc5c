"""Reads a model repository folder: which models there are, which versions, which is the default.

The files are the truth. What is read is kept in memory and follows the generation counter, one model at a time. Both
services read by it; only the inferrer's `repository` writes.

    <repository>/<model>/default                    the default version's number
    <repository>/<model>/<version>/model.onnx       the bytes
    <repository>/<model>/<version>/manifest.json    what is recorded of them
    <repository>/.mlbuffet/                         generation counter, locks, staged uploads
"""

import logging
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from mlbuffet.errors import ModelNotFoundError, UnprocessableError, VersionNotFoundError
from mlbuffet.generation import Generation
from mlbuffet.manifest import MANIFEST_FILE, MODEL_FILE, Manifest
from mlbuffet.names import ModelRef, is_model_name, is_version

log = logging.getLogger(__name__)

PRIVATE = ".mlbuffet"
DEFAULT_FILE = "default"

_STAGED = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model as it stands on disk."""

    name: str
    default: int
    versions: Mapping[int, Manifest]

    @property
    def manifest(self) -> Manifest:
        """The default version's manifest."""
        return self.versions[self.default]

    def version(self, number: int | None) -> Manifest:
        """One version's manifest; None stands for the default.

        Raises:
            VersionNotFoundError: the model has no such version.
        """
        manifest = self.versions.get(self.default if number is None else number)
        if manifest is None:
            numbers = ", ".join(map(str, sorted(self.versions)))
            msg = f"{self.name} has no version {number}; it has {numbers}"
            raise VersionNotFoundError(msg)
        return manifest

    def to_json(self) -> dict[str, Any]:
        """It as a modelhost without the repository is told of it."""
        return {"default": self.default, "versions": [manifest.to_json() for manifest in self.versions.values()]}

    @classmethod
    def from_json(cls, name: str, data: Mapping[str, Any]) -> "ModelEntry":
        """Read what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError, UnprocessableError: it is something else.
        """
        manifests = [Manifest.from_json(item) for item in data["versions"]]
        return cls(name, int(data["default"]), {manifest.version: manifest for manifest in manifests})


def generation_file(root: Path) -> Path:
    """Where the generation counter lives."""
    return root / PRIVATE / "generation"


def staging_folder(root: Path) -> Path:
    """Where uploads are written before they become versions."""
    return root / PRIVATE / "staging"


def is_staged(name: str) -> bool:
    """Tell whether something in that folder is an upload."""
    return _STAGED.fullmatch(name) is not None


def version_folder(root: Path, name: str, version: int) -> Path:
    """One version's folder."""
    return root / name / str(version)


def model_file(root: Path, manifest: Manifest) -> Path:
    """One version's bytes."""
    return version_folder(root, manifest.model, manifest.version) / MODEL_FILE


def read_manifest(folder: Path) -> Manifest | None:
    """Read a version folder's manifest; None when there is none that can be read."""
    try:
        manifest = Manifest.from_json(orjson.loads((folder / MANIFEST_FILE).read_bytes()))
        model, version = folder.parent.name, int(folder.name)
        # A folder that was copied by hand is what its own name says, not what it was copied from.
        is_copy = (manifest.model, manifest.version) != (model, version)
        return manifest.changed(model=model, version=version) if is_copy else manifest
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, UnprocessableError) as error:
        log.warning(
            "manifest unreadable", extra={"model": folder.parent.name, "version": folder.name, "why": str(error)}
        )
        return None


def read_versions(folder: Path) -> dict[int, Manifest]:
    """Every version in a model's folder that has a manifest."""
    try:
        numbers = sorted(int(item.name) for item in os.scandir(folder) if is_version(item.name) and item.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    manifests = ((number, read_manifest(folder / str(number))) for number in numbers)
    return {number: manifest for number, manifest in manifests if manifest is not None}


def read_default(folder: Path) -> int | None:
    """The version that a model's pointer names."""
    try:
        return int((folder / DEFAULT_FILE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def read_model(root: Path, name: str) -> ModelEntry | None:
    """Read one model; None unless its pointer names one of its versions: before that it does not exist."""
    folder = root / name
    default = read_default(folder)
    while default is not None:
        # The pointer first: a version that is published meanwhile is then at worst not seen yet.
        versions = read_versions(folder)
        if default in versions:
            return ModelEntry(name, default, versions)
        # The default may have changed, and the one before been deleted, since the pointer was read.
        before, default = default, read_default(folder)
        if default == before:
            return None
    return None


class Index:
    """All models of a repository, following its changes. Safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._generation = Generation(generation_file(root))
        self.current = self._generation.current  # a caller whose own copy is as old need not ask further
        self._lock = threading.Lock()
        self._seen = -1
        self._models: dict[str, ModelEntry] = {}

    def models(self) -> Mapping[str, ModelEntry]:
        """Every model by name, as of now."""
        self.refresh()
        return self._models

    def model(self, name: str) -> ModelEntry:
        """One model, as of now.

        Raises:
            ModelNotFoundError: there is none of that name.
        """
        self.refresh()
        entry = self._models.get(name)
        if entry is None:
            msg = f"there is no model {name!r}"
            raise ModelNotFoundError(msg)
        return entry

    def manifest(self, ref: ModelRef) -> Manifest:
        """The version that a request names.

        Raises:
            ModelNotFoundError, VersionNotFoundError: it is not there.
        """
        return self.model(ref.name).version(ref.version)

    def refresh(self) -> int:
        """Read what changed since the last time; returns the generation read."""
        now = self._generation.current()
        if now == self._seen:
            return now
        with self._lock:
            now = self._generation.current()
            names = self._generation.changed_since(self._seen, now) if self._seen >= 0 else None
            if names is None:
                self._models = self._read_all()
            else:
                # A new dictionary: readers in other threads keep the one they have.
                self._models = self._updated(names)
            self._seen = now
        return now

    def reread(self) -> None:
        """Read everything again, whatever the counter says: files may have been changed by hand."""
        with self._lock:
            self._models = self._read_all()

    def _updated(self, names: set[str]) -> dict[str, ModelEntry]:
        models = dict(self._models)
        for name in names:
            entry = read_model(self.root, name)
            if entry is None:
                models.pop(name, None)
            else:
                models[name] = entry
        return models

    def _read_all(self) -> dict[str, ModelEntry]:
        names = sorted(item.name for item in os.scandir(self.root) if is_model_name(item.name) and item.is_dir())
        entries = ((name, read_model(self.root, name)) for name in names)
        return {name: entry for name, entry in entries if entry is not None}
