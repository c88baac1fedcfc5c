"""Takes over what was changed by hand in the repository folder, and says what it did.

A flat `iris.onnx` dropped into the folder becomes version 1 of the model `iris.onnx`; a version folder without manifest
(`<model>/<n>/model.onnx`, as other servers lay them out) gets one; a folder that was removed is forgotten. Each goes
through the same check as an upload. Nothing is taken away before its copy is published.
"""

import logging
from pathlib import Path

from inferrer.controlplane import ControlPlane
from inferrer.repository import Repository
from inferrer.staging import StagedUpload
from inferrer.storage import storage_errors
from inferrer.uploads import UploadOptions
from mlbuffet.errors import MLBuffetError, NameConflictError
from mlbuffet.generation import EVERYTHING
from mlbuffet.index import Index, model_file, read_manifest
from mlbuffet.manifest import MODEL_FILE
from mlbuffet.names import check_name, is_model_name, is_version

log = logging.getLogger(__name__)

# A flat file has the name that its model's folder will need: while it is adopted it stands aside under this suffix.
_ASIDE = ".adopting"
_CHUNK = 1 << 20
_ADOPTED = UploadOptions(source="adopted file")


def adopt_all(
    repository: Repository, index: Index, controlplane: ControlPlane, timeout_s: float = 10
) -> dict[str, list[object]]:
    """Adopt, forget and report; one file's failure is its own.

    Raises:
        ModelBusyError: another process has been at it for longer than `timeout_s`.
        StorageUnavailableError: the repository cannot be read.
    """
    report: dict[str, list[object]] = {"adopted": [], "forgotten": [], "changed": [], "refused": []}
    with repository.lock(".adoption", timeout_s), storage_errors():
        before = set(index.models())
        index.reread()
        for path in sorted(repository.root.iterdir()):
            try:
                with storage_errors():
                    report["adopted"] += _adopt(repository, index, controlplane, path)
            except MLBuffetError as error:
                report["refused"].append({"file": path.name, "code": error.code, "message": error.message})
        index.reread()
        report["forgotten"] += sorted(before - set(index.models()))
        report["changed"] += _changed(repository, index)
        # By hand anything may have been changed: every process looks again.
        repository.announce(EVERYTHING)
    if any(report.values()):
        log.info("repository adopted", extra=report)
    return report


def _changed(repository: Repository, index: Index) -> list[str]:
    """Versions whose file no longer has the size that its manifest says."""
    manifests = [manifest for entry in index.models().values() for manifest in entry.versions.values()]
    return [
        f"{manifest.model}:{manifest.version}"
        for manifest in manifests
        if _size(model_file(repository.root, manifest)) != manifest.size_bytes
    ]


def _adopt(repository: Repository, index: Index, controlplane: ControlPlane, path: Path) -> list[object]:
    """Adopt one entry of the folder; returns what was made of it."""
    if path.name.startswith("."):
        return []
    if path.is_file():
        return _adopt_flat(repository, index, controlplane, path)
    if not is_model_name(path.name):
        return []
    bare = [
        folder
        for folder in sorted(path.iterdir())
        if is_version(folder.name) and (folder / MODEL_FILE).is_file() and read_manifest(folder) is None
    ]
    adopted: list[object] = [_adopt_version(repository, controlplane, folder) for folder in bare]
    if path.name not in index.models():
        revived = controlplane.adopt_default(path.name)
        if revived is not None:
            adopted.append(f"{revived.model}:{revived.version}")
    return adopted


def _adopt_flat(repository: Repository, index: Index, controlplane: ControlPlane, path: Path) -> list[object]:
    """Make a flat file version 1 of the model of its name."""
    name = check_name(path.name.removesuffix(_ASIDE))
    with repository.stage() as staged:
        _copy(path, staged)
        entry = index.models().get(name)
        if entry is not None:
            # What an adoption that was interrupted left; it must not supersede what was uploaded since.
            if staged.digest not in {manifest.digest for manifest in entry.versions.values()}:
                msg = f"there is a model {name!r} already; upload the file as its next version"
                raise NameConflictError(msg)
            path.unlink()
            return []
        aside = path.with_name(name + _ASIDE)
        path.rename(aside)
        try:
            uploaded = controlplane.upload(name, staged, _ADOPTED)
        except MLBuffetError:
            if not path.with_name(name).exists():
                aside.rename(path.with_name(name))
            raise
    aside.unlink()
    return [f"{name}:{uploaded.manifest.version}"]


def _adopt_version(repository: Repository, controlplane: ControlPlane, folder: Path) -> str:
    """Give a version folder that has only a model file its manifest."""
    name = check_name(folder.parent.name)
    with repository.stage() as staged:
        _copy(folder / MODEL_FILE, staged)
        manifest = controlplane.adopt_version(name, int(folder.name), staged, _ADOPTED)
    return f"{name}:{manifest.version}"


def _copy(path: Path, staged: StagedUpload) -> None:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            staged.write(chunk)
    staged.finish()


def _size(path: Path) -> int:
    """A file's size; -1 without the file."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
