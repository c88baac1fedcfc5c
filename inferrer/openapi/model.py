"""One model's document, from its signature: names, datatypes and shapes as they are, and an example that was tried."""

from collections.abc import Mapping, Sequence
from typing import Any

from inferrer.openapi.document import COMPONENTS, OPERATIONS, skeleton
from inferrer.openapi.operation import JSON, Json, Operation, open_object, reference, strict
from inferrer.openapi.schemas import enveloped
from mlbuffet.manifest import Manifest, TensorSpec

_OK = {"code": 200, "name": "OK", "description": "Request fulfilled, document follows"}

Example = tuple[object, object]  # a request and its answer


def describe_model(manifest: Manifest, name: str, version: str | None) -> dict[str, Any]:
    """The document of a version as it was asked for: by the model's name alone, or with the version's number."""
    ref = name if version is None else f"{name}:{version}"
    base = f"/v2/models/{name}" + ("" if version is None else f"/versions/{version}")
    about = f"{manifest.description}\n\nVersion {manifest.version}, {manifest.digest}.".strip()
    examples = _examples(manifest)
    paths = {
        f"/api/v1/models/{ref}/prediction": _post("predict", _values(manifest), _prediction(manifest), examples[0]),
        f"{base}/infer": _post("v2_infer", _request(manifest), _response(manifest), examples[1]),
        f"/v1/models/{ref}:predict": _post("v1_predict_instances", reference("Instances"), None, examples[2]),
    }
    return skeleton(manifest.model, about) | {"paths": paths, "components": COMPONENTS}


def _post(name: str, request: Json, response: Json | None, example: Example | None) -> dict[str, Any]:
    """One way to ask, as in the document of all routes but for its schemas and examples."""
    operation: Operation = OPERATIONS[name]
    responses = operation.responses()
    answer = responses["200"]["content"][JSON]
    body: dict[str, Any] = {"schema": request}
    answer = {**answer, **({"schema": response} if response else {})}
    if example is not None:
        body["example"], answer["example"] = example
    responses["200"] = responses["200"] | {"content": {**responses["200"]["content"], JSON: answer}}
    return {
        "post": {
            "operationId": name,
            "tags": [operation.tag],
            "summary": "Predict",
            "parameters": [{"$ref": f"#/components/parameters/{item}"} for item in operation.parameters],
            "requestBody": {"required": True, "content": {JSON: body}},
            "responses": responses,
        }
    }


# Schemas --------------------------------------------------------------------------------------------------------------


def _leaf(datatype: str, *, answered: bool) -> dict[str, Any]:
    """One value; in an answer, NaN and the infinities are null."""
    if datatype in {"BOOL", "BYTES"}:
        return {"type": "boolean" if datatype == "BOOL" else "string"}
    if datatype.startswith("FP"):
        return {"type": ["number", "null"] if answered else "number"}
    bits = int(datatype.lstrip("UINT"))
    low, high = (0, 1 << bits) if datatype.startswith("U") else (-(1 << bits - 1), 1 << bits - 1)
    return {"type": "integer", "minimum": low, "maximum": high - 1}


def _nested(shape: Sequence[int | None], leaf: Json) -> Json:
    """Lists in lists; an axis of any length has no bounds."""
    schema = leaf
    for axis in reversed(shape):
        schema = {"type": "array", "items": schema} | ({} if axis is None else {"minItems": axis, "maxItems": axis})
    return schema


def _input(spec: TensorSpec) -> Json:
    """A batch, or one observation of it."""
    leaf = _leaf(spec.datatype, answered=False)
    whole = _nested(spec.shape, leaf)
    single = len(spec.shape) > 1 and spec.shape[0] in {None, 1}
    return {"anyOf": [whole, _nested(spec.shape[1:], leaf)]} if single else whole


def _output(spec: TensorSpec) -> Json:
    """What an output is in an answer; what is no tensor may be anything."""
    return {} if not spec.shape else _nested(spec.shape, _leaf(spec.datatype, answered=True))


def _values(manifest: Manifest) -> Json:
    inputs, outputs = manifest.signature.inputs, manifest.signature.outputs
    by_name = strict({spec.name: _input(spec) for spec in inputs}, [spec.name for spec in inputs])
    values = {"anyOf": [_input(inputs[0]), by_name]} if len(inputs) == 1 else by_name
    names = {"type": "array", "items": {"enum": [spec.name for spec in outputs]}, "minItems": 1, "uniqueItems": True}
    return strict({"values": values, "outputs": {"anyOf": [{"const": "all"}, names]}}, ["values"])


def _prediction(manifest: Manifest) -> Json:
    named = {spec.name: _output(spec) for spec in manifest.signature.outputs}
    return enveloped({"values": {}, "outputs": strict(named)}, "outputs")


def _tensor(spec: TensorSpec, *, answered: bool) -> Json:
    """A tensor of V2; its data may be flat or nested."""
    # Each axis's own length would need prefixItems, which many tools misread.
    rank = {"minItems": len(spec.shape), "maxItems": len(spec.shape)}
    leaf = _leaf(spec.datatype, answered=answered)
    data = _nested((None,), leaf)
    if not answered and len(spec.shape) > 1:
        data = {"anyOf": [data, _nested(spec.shape, leaf)]}
    fields = {
        "name": {"const": spec.name},
        "datatype": {"const": spec.datatype},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, **rank},
        "data": data,
    }
    return open_object(fields, ["name", "datatype", "shape"])


def _tensors(specs: Sequence[TensorSpec], *, answered: bool) -> Json:
    return {"type": "array", "items": {"anyOf": [_tensor(spec, answered=answered) for spec in specs]}}


def _request(manifest: Manifest) -> Json:
    inputs, outputs = manifest.signature.inputs, manifest.signature.outputs
    wanted = open_object({"name": {"enum": [spec.name for spec in outputs]}}, ["name"])
    tensors = _tensors(inputs, answered=False) | {"minItems": len(inputs), "maxItems": len(inputs)}
    fields = {"id": {"type": "string"}, "inputs": tensors, "outputs": {"type": "array", "items": wanted}}
    return open_object(fields, ["inputs"])


def _response(manifest: Manifest) -> Json:
    fields = {
        "model_name": {"const": manifest.model},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": _tensors(manifest.signature.outputs, answered=True),
    }
    return open_object(fields, ["model_name", "outputs"])


# The golden example ---------------------------------------------------------------------------------------------------


def _examples(manifest: Manifest) -> tuple[Example | None, Example | None, Example | None]:
    """The golden observation and its answer, for each way to ask."""
    golden, signature = manifest.golden, manifest.signature
    if golden is None or not golden.keys() >= {"values", "result"} or len(signature.inputs) != 1:
        return None, None, None
    values, result = golden["values"], golden["result"]
    sent, given = _as_tensor(signature.inputs[0], [values]), _as_tensor(signature.outputs[0], result)
    v1: Example = ({"values": values}, {"http_status": _OK, "values": result})
    v2: Example = (
        {"inputs": [sent], "outputs": [{"name": given["name"]}]},
        {"model_name": manifest.model, "model_version": str(manifest.version), "outputs": [given]},
    )
    # One row, and of several outputs only the first is known.
    single = ({"instances": [values]}, {"predictions": result}) if len(signature.outputs) == 1 else None
    return v1, v2, single


def _as_tensor(spec: TensorSpec, nested: object) -> Mapping[str, Any]:
    """Nested lists as a tensor of V2."""
    level: list[Any] = [nested]
    shape = []
    while isinstance(level[0], list):
        shape.append(len(level[0]))
        level = [item for part in level for item in part]
    return {"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": level}
