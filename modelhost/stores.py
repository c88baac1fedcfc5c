"""Where a modelhost has its versions from: what there is, and the files to run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from mlbuffet.errors import MLBuffetError, NotFoundError
from mlbuffet.index import Index, ModelEntry, is_staged, model_file, read_manifest, staging_folder, version_folder
from mlbuffet.manifest import MODEL_FILE, Manifest, read_key

UNKNOWN = -1  # a generation: it cannot be told now what there is


class Store(Protocol):
    """The repository's folder, or a mirror of it."""

    def current(self) -> int:
        """The present generation, or `UNKNOWN`."""

    def refresh(self) -> int:
        """Read what changed; returns the generation read."""

    def models(self) -> Mapping[str, ModelEntry]:
        """Every model by name."""

    def find(self, key: bytes) -> Manifest | None:
        """The version that a key on the data channel stands for, if there is one."""

    def exists(self, manifest: Manifest) -> bool:
        """Tell whether a version is there, its model's default or not, announced or not yet."""

    def path(self, manifest: Manifest) -> Path:
        """Where its bytes are once `ensure` has returned."""

    async def ensure(self, manifest: Manifest) -> None:
        """Make sure that a version's bytes are here.

        Raises:
            NotLoadedError: they cannot be had now.
        """

    async def staged(self, token: str, digest: str, size_bytes: int) -> Path:
        """Where the bytes of an upload are that is not a version yet; they are here.

        Raises:
            NotFoundError, NotLoadedError: it is not there, or cannot be had now.
        """

    def mend(self, manifest: Manifest, error: MLBuffetError) -> bool:
        """After a version did not load, tell whether it may when it is tried again."""


class SharedStore:
    """The repository's own folder, which the inferrer writes."""

    def __init__(self, root: Path) -> None:
        self._index = Index(root)
        self.current = self._index.current
        self.refresh = self._index.refresh
        self.models = self._index.models

    def find(self, key: bytes) -> Manifest | None:
        """Read the version's manifest."""
        named = read_key(key)
        manifest = read_manifest(version_folder(self._index.root, *named)) if named else None
        return manifest if manifest is not None and manifest.key == key else None

    def exists(self, manifest: Manifest) -> bool:
        """Tell whether it is on disk."""
        return self.find(manifest.key) is not None

    def path(self, manifest: Manifest) -> Path:
        """Its file in the repository."""
        return model_file(self._index.root, manifest)

    async def ensure(self, manifest: Manifest) -> None:
        """All bytes are here."""

    async def staged(self, token: str, digest: str, size_bytes: int) -> Path:  # noqa: ARG002
        """The file in staging."""
        if not is_staged(token):
            msg = "no such staged upload"
            raise NotFoundError(msg)
        return staging_folder(self._index.root) / token / MODEL_FILE

    def mend(self, manifest: Manifest, error: MLBuffetError) -> bool:  # noqa: ARG002
        """What is wrong with a file here is wrong everywhere."""
        return False
