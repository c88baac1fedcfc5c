"""Changes of models: upload, activate, describe, roll back, delete.

An upload is checked by a modelhost, published, loaded and warmed where predictions go, and only then made the default:
until the pointer flips the old version answers, and a refused model leaves nothing behind. Runs in Flask's threads.
"""

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from inferrer.dataplane import DataPlane
from inferrer.repository import Repository
from inferrer.staging import StagedUpload
from inferrer.uploads import UploadOptions, made_before, new_manifest
from mlbuffet.errors import (
    DefaultVersionError,
    DigestMismatchError,
    MLBuffetError,
    NameConflictError,
    PreconditionFailedError,
    UnavailableError,
    UnprocessableError,
)
from mlbuffet.index import Index, ModelEntry, read_versions
from mlbuffet.manifest import Manifest
from mlbuffet.names import ModelRef

log = logging.getLogger(__name__)

CHECK_S = 35.0
LOAD_S = 60.0
_FETCH_BYTES_S = 20e6


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What came of an upload; `created` is false when these bytes are the default version already."""

    manifest: Manifest
    created: bool


class ControlPlane:
    """Every mutation of the repository, by whichever route it comes."""

    def __init__(self, repository: Repository, index: Index, dataplane: DataPlane) -> None:
        self._repository = repository
        self._index = index
        self._dataplane = dataplane

    def upload(self, name: str, staged: StagedUpload, options: UploadOptions) -> Uploaded:
        """Make finished staged bytes a version of a model, and its default unless the client says otherwise.

        A model's first version is always its default: without one there is no model.

        Raises:
            DigestMismatchError, InvalidModelError: the bytes are not what was announced, or no model.
            NameConflictError, IdempotencyConflictError, PreconditionFailedError, ModelBusyError: not now, not so.
            UnavailableError: no modelhost can check it, or none could load it.
        """
        if options.digest is not None and options.digest != staged.digest:
            msg = f"the bytes received have the digest {staged.digest}; announced was {options.digest}"
            raise DigestMismatchError(msg)
        report = self._check(staged)
        with self._repository.lock(name):
            entry = self._index.models().get(name)
            before = self._made_before(name, staged.digest, options)
            if before is not None:
                return Uploaded(self._finish(before, entry, options), created=True)
            self._refuse_conflicts(name, entry, options)
            if entry is not None and self._repository.holds(entry.manifest, staged.digest):
                return Uploaded(self._amend(self._activate(entry, entry.manifest), options), created=False)
            manifest = new_manifest(name, self._repository.next_version(name), staged, report, options, entry)
            try:
                self._repository.publish(staged, manifest)
                self._load_everywhere(manifest)
                if options.activate or entry is None:
                    self._repository.set_default(name, manifest.version)
                else:
                    self._repository.announce(name)
            except BaseException:
                self._repository.withdraw(manifest)
                raise
        log.info("model uploaded", extra={"model": name, "version": manifest.version, "digest": manifest.digest})
        return Uploaded(manifest, created=True)

    def adopt_version(self, name: str, version: int, staged: StagedUpload, options: UploadOptions) -> Manifest:
        """Give a version that lies in the repository without a manifest its own; a model without default gets it.

        Raises:
            InvalidModelError: the file is no model.
            UnavailableError: no modelhost can check it, or none could load it.
        """
        report = self._check(staged)
        with self._repository.lock(name):
            entry = self._index.models().get(name)
            self._refuse_conflicts(name, entry, options)
            manifest = new_manifest(name, version, staged, report, options, entry)
            self._repository.take_over(staged, manifest)
            if entry is None:
                self._load_everywhere(manifest)
                self._repository.set_default(name, version)
        return manifest

    def adopt_default(self, name: str) -> Manifest | None:
        """Make the newest version of a model that has versions and no default its default; None where there is none.

        Raises:
            UnavailableError: no modelhost could load it.
        """
        with self._repository.lock(name):
            versions = read_versions(self._repository.root / name)
            if not versions or name in self._index.models():
                return None
            manifest = versions[max(versions)]
            self._refuse_conflicts(name, None, UploadOptions())
            self._load_everywhere(manifest)
            self._repository.set_default(name, manifest.version)
        return manifest

    def describe(self, ref: ModelRef, changes: Mapping[str, object]) -> Manifest:
        """Change what the operator may: description, image, pinned, serving.

        Raises:
            ModelNotFoundError, VersionNotFoundError, ModelBusyError: it is not there, or not now.
            UnprocessableError: its answers are to be cached, and are not the same each time.
            UnavailableError: no modelhost can say whether they are.
        """
        with self._repository.lock(ref.name):
            manifest = self._index.manifest(ref).changed(**changes)
            if manifest.serving.cache:
                manifest = self._cacheable(manifest)
            self._repository.save_manifest(manifest)
        log.info("model described", extra={"model": ref.name, "version": manifest.version, "fields": sorted(changes)})
        return manifest

    def set_default(self, ref: ModelRef) -> Manifest:
        """Make another version the one that a bare name stands for.

        Raises:
            ModelNotFoundError, VersionNotFoundError, ModelBusyError: it is not there, or not now.
            UnavailableError: no modelhost could load it.
        """
        with self._repository.lock(ref.name):
            entry = self._index.model(ref.name)
            manifest = self._activate(entry, entry.version(ref.version))
        log.info("default version set", extra={"model": ref.name, "version": manifest.version})
        return manifest

    def load(self, ref: ModelRef) -> Manifest:
        """Load a version on every ready modelhost; one that had failed or is quarantined there is tried anew.

        Raises:
            ModelNotFoundError, VersionNotFoundError, ModelBusyError: it is not there, or not now.
            UnavailableError: no modelhost could load it.
        """
        manifest = self._index.manifest(ref)
        if manifest.unloaded:
            manifest = self.describe(ref, {"unloaded": False})
        self._load_everywhere(manifest)
        log.info("version loaded on purpose", extra={"model": ref.name, "version": manifest.version})
        return manifest

    def unload(self, ref: ModelRef) -> Manifest:
        """Take a version out of service until it is loaded again: no prediction goes to it any more from now on.

        Modelhosts give its memory back when its present requests have ended. A restart changes nothing.

        Raises:
            ModelNotFoundError, VersionNotFoundError, ModelBusyError: it is not there, or not now.
        """
        return self.describe(ref, {"unloaded": True})

    def _made_before(self, name: str, digest: str, options: UploadOptions) -> Manifest | None:
        """The version that an upload with this Idempotency-Key made, in the index or, where its maker died, not yet.

        Raises:
            IdempotencyConflictError: it made it from other bytes.
        """
        if options.idempotency_key is None:
            return None
        return made_before(read_versions(self._repository.root / name).values(), digest, options.idempotency_key)

    def _finish(self, made: Manifest, entry: ModelEntry | None, options: UploadOptions) -> Manifest:
        """Do what an upload that made a version before may have left undone."""
        if entry is None:
            self._load_everywhere(made)
            self._repository.set_default(made.model, made.version)
        elif options.activate and made.version >= entry.default:
            return self._activate(entry, made)  # else a later change stands, and a repetition does not undo it
        elif made.version not in entry.versions:
            self._repository.announce(made.model)
        return made

    def _activate(self, entry: ModelEntry, manifest: Manifest) -> Manifest:
        """Make a version the default unless it is; loading it lifts what had failed, and that it was unloaded."""
        if manifest.unloaded:
            manifest = manifest.changed(unloaded=False)
            self._repository.save_manifest(manifest)
        self._load_everywhere(manifest)
        if manifest.version != entry.default:
            self._repository.set_default(entry.name, manifest.version)
        return manifest

    def delete(self, ref: ModelRef) -> None:
        """Delete a model, or one version of it.

        Raises:
            ModelNotFoundError, VersionNotFoundError, ModelBusyError: it is not there, or not now.
            DefaultVersionError: that version is the default and others exist.
        """
        with self._repository.lock(ref.name):
            entry = self._index.model(ref.name)
            manifest = entry.version(ref.version)
            if ref.version is None or set(entry.versions) == {manifest.version}:
                self._repository.delete_model(ref.name)
            elif manifest.version == entry.default:
                msg = f"{ref} is the default version; make another one the default first, or delete {ref.name} whole"
                raise DefaultVersionError(msg)
            else:
                self._repository.delete_version(manifest)
        log.info("model deleted", extra={"model": ref.name, "version": ref.version})

    def _cacheable(self, manifest: Manifest) -> Manifest:
        """A version whose answers may be given again; one of which that is not known is looked at.

        Raises:
            UnprocessableError: they may not.
            UnavailableError: no modelhost can look.
        """
        if manifest.deterministic is None:
            timeout_s = CHECK_S + _fetch_s(manifest.size_bytes)
            report = self._dataplane.call(None, "check", timeout_s, manifest=manifest.to_json()).result()
            manifest = manifest.changed(deterministic=report["deterministic"])
        if not manifest.deterministic:
            msg = "the model has operators of chance (RandomNormal, Dropout in training, …): its answers are not cached"
            raise UnprocessableError(msg)
        return manifest

    def _check(self, staged: StagedUpload) -> dict[str, Any]:
        """Have a modelhost look at staged bytes; returns signature, notes, and whether the model is deterministic."""
        arguments = {"staged": staged.folder.name, "digest": staged.digest, "size_bytes": staged.size_bytes}
        return self._dataplane.call(None, "check", CHECK_S + _fetch_s(staged.size_bytes), **arguments).result()

    def _refuse_conflicts(self, name: str, entry: ModelEntry | None, options: UploadOptions) -> None:
        """Stop what the present state forbids."""
        if entry is None:
            clash = next((other for other in self._index.models() if other.lower() == name.lower()), None)
            if clash is not None:
                msg = f"{name!r} differs only by case from the existing model {clash!r}"
                raise NameConflictError(msg)
            if (self._repository.root / name).is_file():
                msg = f"a file {name!r} lies in the repository folder; GET /api/v1/updatemodels adopts it"
                raise NameConflictError(msg)
        present = entry.manifest.digest if entry is not None else None
        if options.if_match is not None and options.if_match not in {present, "*" if present else None}:
            msg = f"If-Match named {options.if_match}; the default version is {present or 'not there'}"
            raise PreconditionFailedError(msg)

    def _amend(self, manifest: Manifest, options: UploadOptions) -> Manifest:
        """A repeated upload of the same bytes still says what the client wants said of them."""
        changes = {"description": options.description, "image": options.image}
        wanted = {name: value for name, value in changes.items() if value not in {None, getattr(manifest, name)}}
        if wanted:
            manifest = manifest.changed(**wanted)
            self._repository.save_manifest(manifest)
        return manifest

    def _load_everywhere(self, manifest: Manifest) -> None:
        """Load and warm a version on every modelhost that is ready now; one at least must succeed."""
        replicas = self._dataplane.ready_replicas()
        timeout_s, told = LOAD_S + _fetch_s(manifest.size_bytes), manifest.to_json()
        failures = _failures(self._dataplane.call(host, "load", timeout_s, manifest=told) for host in replicas)
        for failure in failures:
            log.warning(
                "load failed", extra={"model": manifest.model, "version": manifest.version, "why": str(failure)}
            )
        if len(failures) == len(replicas):
            raise failures[0]


def _fetch_s(size_bytes: int) -> float:
    """How long a modelhost without the repository may take to fetch so much, in seconds."""
    return size_bytes / _FETCH_BYTES_S


def _failures(futures: Iterable[Future[dict[str, Any]]]) -> list[MLBuffetError]:
    """Wait for all; the errors of those that failed."""
    errors = [future.exception() for future in list(futures)]
    return [
        error if isinstance(error, MLBuffetError) else UnavailableError("loading failed") for error in errors if error
    ]
