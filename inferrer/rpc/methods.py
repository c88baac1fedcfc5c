"""The inference service's methods: bytes in, bytes out. Beside ModelInfer, each says what HTTP's route says.

The dictionaries that HTTP writes as JSON fill the messages here: fields have the same names in both.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from inferrer.metadata import model_configuration, model_metadata, repository_index, server_metadata
from inferrer.rpc.calls import Method, RpcCall
from inferrer.rpc.infer import ModelInfer
from inferrer.services import Services
from inferrer.states import check_ready
from inferrer.stats import ask_statistics, model_statistics
from mlbuffet.errors import BadRequestError, UnavailableError
from mlbuffet.index import ModelEntry
from mlbuffet.manifest import Manifest
from mlbuffet.names import ModelRef, parse_ref
from mlbuffet.oip import inference_pb2

Answer = Callable[[Any], Mapping[str, object]]


def methods(services: Services) -> dict[str, Method]:
    """Every method by its name."""
    asked, changed = _Asked(services), _Changed(services)
    at_once: dict[str, Answer] = {
        "ServerLive": lambda _: {"live": True},
        "ServerReady": lambda _: {"ready": services.dataplane.ready},
        "ServerMetadata": lambda _: server_metadata(),
        "ModelReady": asked.ready,
        "ModelMetadata": asked.metadata,
        "ModelConfig": asked.configuration,
    }
    in_a_thread: dict[str, Answer] = {
        "ModelStatistics": asked.statistics,
        "RepositoryIndex": asked.index,
        "RepositoryModelLoad": changed.load,
        "RepositoryModelUnload": changed.unload,
    }
    found = {name: _method(services, name, answer, waits=False) for name, answer in at_once.items()}
    found |= {name: _method(services, name, answer, waits=True) for name, answer in in_a_thread.items()}
    return found | {"ModelInfer": ModelInfer(services)}


def _method(services: Services, name: str, answer: Answer, *, waits: bool) -> Method:
    """A method that reads its message, asks, and writes the answer; in a thread where it `waits` for others."""
    request_type, response_type = getattr(inference_pb2, f"{name}Request"), getattr(inference_pb2, f"{name}Response")

    async def method(body: bytes, call: RpcCall) -> bytes:
        try:
            request = request_type.FromString(body)
        except DecodeError:
            msg = f"the message is not a {name}Request"
            raise BadRequestError(msg) from None
        model = getattr(request, "name", "") or getattr(request, "model_name", "")
        call.model = model if model in services.index.models() else ""
        data = await asyncio.to_thread(answer, request) if waits else answer(request)
        response = json_format.Parse(orjson.dumps(data), response_type(), ignore_unknown_fields=True)
        written: bytes = response.SerializeToString()
        return written

    return method


class _Asked:
    """What can be asked of models."""

    def __init__(self, services: Services) -> None:
        self._index = services.index
        self._dataplane = services.dataplane

    def ready(self, request: Any) -> Mapping[str, object]:  # noqa: ANN401 - a message
        """Whether predictions are answered at once."""
        try:
            check_ready(self._find(request)[1], self._dataplane.replicas.ready())
        except UnavailableError:
            return {"ready": False}
        return {"ready": True}

    def metadata(self, request: Any) -> Mapping[str, object]:  # noqa: ANN401 - a message
        """Inputs and outputs."""
        return model_metadata(*self._find(request))

    def configuration(self, request: Any) -> Mapping[str, object]:  # noqa: ANN401 - a message
        """Triton's configuration."""
        return {"config": model_configuration(self._find(request)[1], self._dataplane.replicas.ready())}

    def statistics(self, request: Any) -> Mapping[str, object]:  # noqa: ANN401 - a message
        """How often it ran; without a name, all models."""
        ref = _ref(request) if request.name else None
        entries = [self._index.model(ref.name)] if ref else self._index.models().values()
        if ref is None or ref.version is None:
            versions = [manifest for entry in entries for manifest in entry.versions.values()]
        else:
            versions = [entry.version(ref.version) for entry in entries]
        return {"model_stats": model_statistics(versions, ask_statistics(self._dataplane, ref))}

    def index(self, request: Any) -> Mapping[str, object]:  # noqa: ANN401 - a message
        """Every version with its state."""
        _refuse_repository(request)
        ready = self._dataplane.replicas.ready()
        return {"models": repository_index(self._index.models(), ready, ready=request.ready)}

    def _find(self, request: Any) -> tuple[ModelEntry, Manifest]:  # noqa: ANN401 - a message
        ref = _ref(request)
        entry = self._index.model(ref.name)
        return entry, entry.version(ref.version)


class _Changed:
    """What can be changed in the model repository."""

    def __init__(self, services: Services) -> None:
        self._controlplane = services.controlplane

    def load(self, request: Any) -> Mapping[str, object]:  # noqa: ANN401 - a message
        """Load a model on every modelhost."""
        _refuse_repository(request)
        _check_parameters(request.parameters, {})
        self._controlplane.load(parse_ref(request.model_name))
        return {}

    def unload(self, request: Any) -> Mapping[str, object]:  # noqa: ANN401 - a message
        """Take a model out of service."""
        _refuse_repository(request)
        _check_parameters(request.parameters, {"unload_dependents": "bool_param"})  # no model depends on another
        self._controlplane.unload(parse_ref(request.model_name))
        return {}


def _ref(request: Any) -> ModelRef:  # noqa: ANN401 - a message
    return parse_ref(f"{request.name}:{request.version}" if request.version else request.name)


def _refuse_repository(request: Any) -> None:  # noqa: ANN401 - a message
    if request.repository_name:
        msg = f"there is one model repository, without a name; received {request.repository_name[:80]!a}"
        raise BadRequestError(msg)


def _check_parameters(parameters: Mapping[str, Any], known: Mapping[str, str]) -> None:
    for name, value in parameters.items():
        if name not in known or value.WhichOneof("parameter_choice") != known[name]:
            msg = f"the parameters taken are {dict(known) or 'none'}; received {name[:80]!a}"
            raise BadRequestError(msg)
