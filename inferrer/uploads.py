"""What a client says of an upload, and what is recorded of the version that it makes. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from inferrer.staging import StagedUpload
from mlbuffet.errors import IdempotencyConflictError
from mlbuffet.index import ModelEntry
from mlbuffet.manifest import ImageSettings, Manifest, ServingSettings, Signature


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """What a client may say of an upload beside its bytes; None where it says nothing."""

    description: str | None = None
    image: ImageSettings | None = None
    digest: str | None = None
    idempotency_key: str | None = None
    if_match: str | None = None
    source: str = "upload"
    activate: bool = True  # make it the default
    run: Mapping[str, Any] | None = None


def made_before(versions: Iterable[Manifest], digest: str, idempotency_key: str) -> Manifest | None:
    """The version that an upload with this Idempotency-Key made.

    Raises:
        IdempotencyConflictError: it made it from other bytes.
    """
    manifest = next((item for item in versions if item.idempotency_key == idempotency_key), None)
    if manifest is not None and manifest.digest != digest:
        msg = f"this Idempotency-Key made version {manifest.version} of {manifest.model} from other bytes"
        raise IdempotencyConflictError(msg)
    return manifest


def new_manifest(
    name: str,
    version: int,
    staged: StagedUpload,
    report: Mapping[str, Any],
    options: UploadOptions,
    entry: ModelEntry | None,
) -> Manifest:
    """What is recorded of a new version; what the client does not say is taken over from the version before."""
    before = entry.manifest if entry is not None else None
    description = options.description if options.description is not None else before.description if before else ""
    image = options.image if options.image is not None else before.image if before else ImageSettings()
    serving = before.serving if before else ServingSettings()
    return Manifest(
        model=name,
        version=version,
        digest=staged.digest,
        size_bytes=staged.size_bytes,
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        source=options.source if options.run is None else "training",
        signature=Signature.from_json(report["signature"]),
        description=description,
        image=image,
        serving=replace(serving, cache=serving.cache and report["deterministic"]),
        deterministic=report["deterministic"],
        idempotency_key=options.idempotency_key,
        notes=tuple(report["notes"]),
        run=options.run,
    )
