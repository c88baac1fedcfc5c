"""The model routes: list, show, upload, describe, choose the default, download, delete."""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, BinaryIO

from flask import Blueprint, Request, Response, g, request

from inferrer.adoption import adopt_all
from inferrer.audit import concerns
from inferrer.replica import Replica
from inferrer.routes.fields import (
    announced_digest,
    idempotency_key,
    if_match,
    image_settings,
    json_object,
    limit_of,
    run_of,
    yes_no,
)
from inferrer.services import Services
from inferrer.staging import StagedUpload
from inferrer.states import state_on
from inferrer.terms import check_encoding
from inferrer.uploads import UploadOptions
from mlbuffet.chassis.forms import is_multipart, read_chunks, read_form
from mlbuffet.chassis.web import answer
from mlbuffet.errors import BadRequestError, ModelCorruptError, UnprocessableError
from mlbuffet.index import ModelEntry, model_file
from mlbuffet.manifest import ImageSettings, Manifest, ServingSettings, check_description
from mlbuffet.names import ModelRef, parse_ref

_PAGE = 10_000
_DOWNLOAD_CHUNK = 1 << 18


def model_routes(services: Services) -> Blueprint:
    """Everything about models but predictions."""
    routes = Blueprint("models", __name__)
    routes.register_blueprint(_reading(services))
    routes.register_blueprint(_changing(services))
    return routes


def _reading(services: Services) -> Blueprint:
    routes = Blueprint("reading", __name__)

    @routes.get("/api/v1/models")
    def list_models() -> Response:
        """List the models' names; `limit` and `after` page through them.

        curl http://127.0.0.1:8002/api/v1/models
        """
        entries, more = _page(services)
        return answer({"model_list": [entry.name for entry in entries], **more})

    @routes.get("/api/v1/models/information")
    def list_information() -> Response:
        """List the models with their descriptions; `limit` and `after` page through them.

        curl http://127.0.0.1:8002/api/v1/models/information
        """
        entries, more = _page(services)
        return answer({"model_list": [_summary(entry) for entry in entries], **more})

    @routes.get("/api/v1/models/<name>")
    def show_model(name: str) -> Response:
        """Show a model: inputs, outputs, versions, and its state on each modelhost.

        curl http://127.0.0.1:8002/api/v1/models/iris.onnx
        """
        ref = parse_ref(name)
        entry = services.index.model(ref.name)
        return answer(_details(entry, entry.version(ref.version), services.dataplane.replicas.all()))

    @routes.get("/api/v1/models/<name>/download")
    def download_model(name: str) -> Response:
        """Download a model's file.

        curl -o iris.onnx http://127.0.0.1:8002/api/v1/models/iris.onnx/download
        """
        manifest = services.index.manifest(parse_ref(name))
        file = _open(services, manifest)
        headers = {
            "Content-Length": str(manifest.size_bytes),
            "Content-Disposition": f'attachment; filename="{manifest.model}"',
            "ETag": f'"{manifest.digest}"',
            "X-Model-Version": str(manifest.version),
        }
        pieces = iter(lambda: file.read(_DOWNLOAD_CHUNK), b"")
        response = Response(pieces, headers=headers, content_type="application/octet-stream")
        response.call_on_close(file.close)
        return response

    def _page(services: Services) -> tuple[list[ModelEntry], dict[str, str]]:
        limit, after = limit_of(request, _PAGE), request.args.get("after", "")
        models = services.index.models()
        names = sorted(name for name in models if name > after)
        more = {"next": names[limit - 1]} if len(names) > limit else {}
        return [models[name] for name in names[:limit]], more

    return routes


def _changing(services: Services) -> Blueprint:
    routes = Blueprint("changing", __name__)

    @routes.put("/api/v1/models/<name>")
    def upload_model(name: str) -> Response:
        """Upload a model, or a new version of it, in the form field `path` or as the whole body.

        curl -X PUT http://127.0.0.1:8002/api/v1/models/mine.onnx -F path=@models/iris.onnx/1/model.onnx
        """
        ref = parse_ref(name)
        if ":" in name:
            msg = f"an upload always makes a new version; give the bare name {ref.name!r}"
            raise BadRequestError(msg)
        check_encoding(request.headers.get("Content-Encoding", ""))
        options = UploadOptions(
            digest=announced_digest(request), idempotency_key=idempotency_key(request), if_match=if_match(request)
        )
        with services.repository.stage() as staged:
            fields = _receive(request, staged)
            g.uploaded_bytes = staged.size_bytes
            options = replace(
                options,
                description=check_description(fields["model_description"]) if "model_description" in fields else None,
                image=image_settings(fields.get("image")),
                activate=yes_no("activate", fields.get("activate", "true")),
                run=run_of(request, fields.get("run")),
            )
            uploaded = services.controlplane.upload(ref.name, staged, options)
        concerns(uploaded.manifest)
        location = f"/api/v1/models/{ref.name}:{uploaded.manifest.version}"
        return answer(_version(uploaded.manifest), 201 if uploaded.created else 200, {"Location": location})

    @routes.post("/api/v1/models/<name>")
    def describe_model(name: str) -> Response:
        """Change a model's description, image settings, serving settings or pin.

        curl -X POST http://127.0.0.1:8002/api/v1/models/iris.onnx -d '{"model_description": "Iris species"}'
        """
        manifest = concerns(services.controlplane.describe(parse_ref(name), _changes(json_object(request))))
        return answer(_version(manifest))

    @routes.post("/api/v1/models/<name>/default")
    def set_default(name: str) -> Response:
        """Make another version the default: forward, or back.

        curl -X POST http://127.0.0.1:8002/api/v1/models/iris.onnx/default -d '{"default": 1}'
        """
        version = json_object(request).get("default")
        if type(version) is not int:
            msg = f"'default' is a version number; received {type(version).__name__}"
            raise UnprocessableError(msg)
        manifest = concerns(services.controlplane.set_default(ModelRef(parse_ref(name).name, version)))
        return answer({"model": manifest.model, "default": manifest.version})

    @routes.post("/api/v1/models/<name>/load")
    def load_model(name: str) -> Response:
        """Load a model on every modelhost; lifts a quarantine, and that it was unloaded.

        curl -X POST http://127.0.0.1:8002/api/v1/models/iris.onnx/load
        """
        manifest = concerns(services.controlplane.load(parse_ref(name)))
        hosts = _hosts(manifest, services.dataplane.replicas.all())
        return answer({"model": manifest.model, "version": manifest.version, "modelhosts": hosts})

    @routes.post("/api/v1/models/<name>/unload")
    def unload_model(name: str) -> Response:
        """Take a model out of service and give its memory back, until it is loaded again.

        curl -X POST http://127.0.0.1:8002/api/v1/models/mine.onnx/unload
        """
        return answer(_version(concerns(services.controlplane.unload(parse_ref(name)))))

    @routes.delete("/api/v1/models/<name>")
    def delete_model(name: str) -> Response:
        """Delete a model, or with `name:version` one version of it.

        curl -X DELETE http://127.0.0.1:8002/api/v1/models/mine.onnx
        """
        services.controlplane.delete(parse_ref(name))
        return answer({"deleted": name})

    @routes.get("/api/v1/updatemodels")
    def update_models() -> Response:
        """Adopt and forget files that were changed by hand in the repository folder.

        curl http://127.0.0.1:8002/api/v1/updatemodels
        """
        return answer(adopt_all(services.repository, services.index, services.controlplane))

    return routes


def _open(services: Services, manifest: Manifest) -> BinaryIO:
    """Open a version's file.

    Raises:
        ModelNotFoundError, VersionNotFoundError: it was deleted a moment ago.
        ModelCorruptError: it is gone, or not as long as it should be.
    """
    try:
        file = model_file(services.repository.root, manifest).open("rb")
    except OSError as error:
        services.index.manifest(ModelRef(manifest.model, manifest.version))
        msg = "the stored model file cannot be read"
        raise ModelCorruptError(msg) from error
    if os.fstat(file.fileno()).st_size != manifest.size_bytes:
        file.close()
        msg = f"the stored model file no longer has its {manifest.size_bytes} bytes"
        raise ModelCorruptError(msg)
    return file


def _receive(request: Request, staged: StagedUpload) -> Mapping[str, str]:
    """Write the uploaded file as it comes; returns the form's other fields."""
    content_type = request.headers.get("Content-Type", "")
    fields: dict[str, str] = {}
    if is_multipart(content_type):
        known = ("model_description", "image", "activate", "run")
        fields = read_form(request.stream, content_type, files=("path",), fields=known, take=staged.write)
    else:
        for chunk in read_chunks(request.stream):
            staged.write(chunk)
    staged.finish()
    return fields


def _changes(data: Mapping[str, Any]) -> dict[str, object]:
    """What a POST wants changed, as fields of the manifest."""
    known = {"model_description", "image", "pinned", "serving"}
    if not data or set(data) - known:
        msg = f"the fields are {', '.join(sorted(known))}; received {min(set(data) - known, default='none')[:80]!a}"
        raise UnprocessableError(msg)
    changes: dict[str, object] = {}
    if "model_description" in data:
        changes["description"] = check_description(data["model_description"])
    if "image" in data:
        changes["image"] = ImageSettings.from_json(data["image"])
    if "serving" in data:
        changes["serving"] = ServingSettings.from_json(data["serving"])
    if "pinned" in data:
        if not isinstance(data["pinned"], bool):
            msg = f"'pinned' is true or false; received {type(data['pinned']).__name__}"
            raise UnprocessableError(msg)
        changes["pinned"] = data["pinned"]
    return changes


def _version(manifest: Manifest) -> dict[str, object]:
    """One version, as every route shows it."""
    return {
        "model": manifest.model,
        "version": manifest.version,
        "digest": manifest.digest,
        "size_bytes": manifest.size_bytes,
        "created": manifest.created,
        "source": manifest.source,
        "description": manifest.description,
        "pinned": manifest.pinned,
        "unloaded": manifest.unloaded,
        "serving": asdict(manifest.serving),
        "notes": manifest.notes,
        "run": manifest.run,
    }


def _summary(entry: ModelEntry) -> dict[str, object]:
    """One model in the list."""
    return _version(entry.manifest) | {"model_type": entry.manifest.model_type, "versions": sorted(entry.versions)}


def _details(entry: ModelEntry, manifest: Manifest, replicas: list[Replica]) -> dict[str, object]:
    """One model whole; the first input's fields again by themselves for the seed's clients."""
    signature = manifest.signature
    first = signature.inputs[0] if signature.inputs else None
    sizes = [axis for axis in first.shape[1:] if axis is not None] if first else []
    return _version(manifest) | {
        "model_type": manifest.model_type,
        "inputs": [asdict(spec) for spec in signature.inputs],
        "outputs": [asdict(spec) for spec in signature.outputs],
        "image": asdict(manifest.image),
        "default": entry.default,
        "versions": [_version(version) for _, version in sorted(entry.versions.items())],
        "modelhosts": _hosts(manifest, replicas),
        "input_name": first.name if first else None,
        "num_inputs": math.prod(sizes),
        "output_name": signature.outputs[0].name if signature.outputs else None,
    }


def _hosts(manifest: Manifest, replicas: list[Replica]) -> list[dict[str, object]]:
    """A version's state on each modelhost, in the model repository's words, and how it is run there."""
    hosts: list[dict[str, object]] = []
    for replica in replicas:
        state, code, reason, run = state_on(replica, manifest)
        said = {"state": state, "reason": reason, **({"code": code} if code else {})}
        hosts.append({**replica.describe(), **said, **run})
    return hosts
