"""What the Open Inference Protocol tells of server, models and repository, in the words of Triton's JSON. Pure.

The configuration is Triton's ModelConfig as far as it says something of us: clients such as perf_analyzer read from it
how large a batch may be.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version

from inferrer.replica import Replica
from inferrer.states import state_of, state_on
from mlbuffet.index import ModelEntry
from mlbuffet.manifest import Manifest, TensorSpec

_EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "statistics",
)
_PLATFORM = "onnxruntime_onnx"
_BATCH_ROWS = (
    1024  # that a request may have by the word of the configuration; what fits into memory is taken all the same
)

Json = dict[str, object]


def server_metadata() -> Json:
    """Name, version and extensions."""
    return {"name": "mlbuffet", "version": _own_version(), "extensions": _EXTENSIONS}


@cache
def _own_version() -> str:
    return version("mlbuffet")


def model_metadata(entry: ModelEntry, manifest: Manifest) -> Json:
    """One version's inputs and outputs, and which versions there are."""
    return {
        "name": manifest.model,
        "versions": [str(number) for number in sorted(entry.versions)],
        "platform": _PLATFORM,
        "inputs": [_tensor(spec) for spec in manifest.signature.inputs],
        "outputs": [_tensor(spec) for spec in manifest.signature.outputs],
    }


def _tensor(spec: TensorSpec) -> Json:
    return {"name": spec.name, "datatype": spec.datatype, "shape": _dims(spec.shape)}


def _dims(shape: Iterable[int | None]) -> list[int]:
    """Lengths as the protocol has them: -1 is any."""
    return [-1 if axis is None else axis for axis in shape]


def model_configuration(manifest: Manifest, replicas: Iterable[Replica]) -> Json:
    """One version's configuration; where it takes batches, the shapes in it are those of one row."""
    signature, serving = manifest.signature, manifest.serving
    batched = takes_batches(manifest)
    states = [state_on(replica, manifest) for replica in replicas]
    runners = sum(state.run.get("runners", 1) for state in states if state.state == "READY")
    return {
        "name": manifest.model,
        "platform": _PLATFORM,
        "backend": "onnxruntime",
        "version_policy": {"specific": {"versions": [manifest.version]}},
        "max_batch_size": (serving.batch_rows or _BATCH_ROWS) if batched else 0,
        "input": [_tensor_configuration(spec, batched=batched) for spec in signature.inputs],
        "output": [_tensor_configuration(spec, batched=batched) for spec in signature.outputs],
        "instance_group": [{"name": manifest.model, "kind": "KIND_CPU", "count": max(runners, 1)}],
        "default_model_filename": "model.onnx",
        **({"dynamic_batching": {}} if batched else {}),
        "response_cache": {"enable": serving.cache},
    }


def takes_batches(manifest: Manifest) -> bool:
    """Tell whether the first axis of every input and output is one of any length, and an input has others."""
    inputs, outputs = manifest.signature.inputs, manifest.signature.outputs
    dynamic = all(spec.shape[:1] == (None,) for spec in (*inputs, *outputs))
    return bool(inputs) and dynamic and all(len(spec.shape) > 1 for spec in inputs)


def _tensor_configuration(spec: TensorSpec, *, batched: bool) -> Json:
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    dims = _dims(spec.shape[1:] if batched else spec.shape)
    # The configuration has no tensor without axes: it is one of length 1 that is taken off again.
    shape = {"dims": dims} if dims else {"dims": [1], "reshape": {"shape": []}}
    return {"name": spec.name, "data_type": f"TYPE_{kind}", **shape}


def repository_index(models: Mapping[str, ModelEntry], replicas: Iterable[Replica], *, ready: bool) -> list[Json]:
    """Every version with its state, or only those that are ready."""
    hosts = list(replicas)
    manifests = [manifest for _, entry in sorted(models.items()) for _, manifest in sorted(entry.versions.items())]
    rows = [_index_row(manifest, hosts) for manifest in manifests]
    return [row for row in rows if row["state"] == "READY" or not ready]


def _index_row(manifest: Manifest, replicas: Iterable[Replica]) -> Json:
    state, _, reason, _ = state_of(manifest, replicas)
    known = "UNAVAILABLE" if state == "QUARANTINED" else state
    return {"name": manifest.model, "version": str(manifest.version), "state": known, "reason": reason}
