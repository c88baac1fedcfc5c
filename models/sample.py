"""What one sample model is, and the ONNX work that all of them share.

Nothing in a model file depends on the hour, the machine's name or a tool's version: what converters write beside the
model itself is replaced by constants.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper
from onnxruntime import InferenceSession, SessionOptions  # type: ignore[import-untyped]
from skl2onnx import to_onnx  # type: ignore[import-untyped]
from skl2onnx.common.data_types import FloatTensorType  # type: ignore[import-untyped]
from sklearn.base import BaseEstimator, is_classifier  # type: ignore[import-untyped]

from mlbuffet.manifest import ImageSettings

SEED = 0
OPSETS = {"": 17, "ai.onnx.ml": 3}
IR_VERSION = 8
PRODUCER = "mlbuffet models/make.py"

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sample:
    """One model with what its manifest and README.md say of it. `golden` and `probes` are single observations."""

    name: str
    content: bytes
    description: str
    trained_on: str
    measured: str
    golden: Floats
    probes: tuple[tuple[float, ...], ...] = ()
    remark: str = ""
    image: ImageSettings = field(default_factory=ImageSettings)
    pictures: tuple[tuple[str, bytes], ...] = ()


def converted(estimator: BaseEstimator, width: int, source: str = "input") -> ModelProto:
    """Turn a fitted estimator on [N, width] into ONNX; a classifier gives `label`, then `probabilities`."""
    labelled = is_classifier(estimator)
    model: ModelProto = to_onnx(
        estimator,
        initial_types=[(source, FloatTensorType([None, width]))],
        final_types=[("label", None), ("probabilities", None)] if labelled else [("prediction", None)],
        options={"zipmap": False} if labelled else None,
        target_opset=OPSETS,
    )
    return model


def preceded(
    model: ModelProto, nodes: Iterable[NodeProto], shape: Sequence[int], constants: Iterable[TensorProto] = ()
) -> ModelProto:
    """Put nodes before a model whose input is `features`: the first reads `input` [N, *shape], the last writes it."""
    after = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *after])
    model.graph.initializer.extend(constants)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *shape]))
    return model


def finished(model: ModelProto, name: str, description: str) -> bytes:
    """Name the batch axis N, replace what converters write by constants, check, and serialise."""
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version, model.domain = PRODUCER, "", ""
    model.graph.name, model.doc_string = name, description
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)  # the converter's order is a set's
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def run(content: bytes, batch: Floats) -> NDArray[Any]:
    """Give the first output for a batch, from the ONNX file itself: what is measured is what is served."""
    return np.asarray(session(content).run(None, {"input": batch})[0])


def session(content: bytes) -> InferenceSession:
    """Open a model on one CPU thread."""
    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(content, options, providers=["CPUExecutionProvider"])
