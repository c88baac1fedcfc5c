"""The part of onnx.proto that is looked at, and how much of everything a model may have.

Field numbers never change once they are given: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. The limits are
far beyond what honest exporters write, and docs/api.md names them.
"""

from collections.abc import Mapping

from modelhost.structure.wire import Field

NODES = 100_000  # of all graphs, with functions put in where they are called, as the runtime does it
LEVELS = 16  # graphs in graphs; the runtime's own parser gives up at about 30
FUNCTIONS = 1_000
CALLS = 32  # functions in functions
VALUES = 4_096  # inputs or outputs of one graph or operator
METADATA = 1_000  # entries in one place
TEXT_BYTES = 32 << 20  # documentation and metadata
DENSE_BYTES = 1 << 30  # a sparse tensor once its zeros are written out
IR_VERSION = 100
OPSET = 1_000
RANK = Field("dims", 64)

_MANY = 100_000  # whatever has no limit of its own
_DOC = Field("doc_string")
_METADATA = Field("metadata_props", METADATA)
_INPUT, _OUTPUT = Field("input", VALUES), Field("output", VALUES)
_NODE = Field("node", NODES)
_DOMAIN, _OVERLOAD = Field("domain"), Field("overload")
_IMPORTS = Field("opset_import", 100)

TEXTS = (_DOC.name, _METADATA.name)

Fields = Mapping[int, Field]

MODEL: Fields = {
    1: Field("ir_version"),
    6: _DOC,
    7: Field("graph"),
    8: _IMPORTS,
    14: _METADATA,
    20: Field("training_info", _MANY),
    25: Field("functions", FUNCTIONS),
}
IMPORT: Fields = {1: _DOMAIN, 2: Field("version")}
TRAINING: Fields = {1: Field("initialization"), 2: Field("algorithm")}
GRAPH: Fields = {
    1: _NODE,
    5: Field("initializer", _MANY),
    10: _DOC,
    11: _INPUT,
    12: _OUTPUT,
    13: Field("value_info", _MANY),
    15: Field("sparse_initializer", _MANY),
    16: _METADATA,
}
FUNCTION: Fields = {
    1: Field("name"),
    4: _INPUT,
    5: _OUTPUT,
    7: _NODE,
    8: _DOC,
    9: _IMPORTS,
    10: _DOMAIN,
    11: Field("attribute_proto", _MANY),
    12: Field("value_info", _MANY),
    13: _OVERLOAD,
    14: _METADATA,
}
NODE: Fields = {
    1: _INPUT,
    2: _OUTPUT,
    4: Field("op_type"),
    5: Field("attribute", _MANY),
    6: _DOC,
    7: _DOMAIN,
    8: _OVERLOAD,
    9: _METADATA,
}
ATTRIBUTE: Fields = {
    5: Field("t"),
    6: Field("g"),
    10: Field("tensors", _MANY),
    11: Field("graphs", _MANY),
    13: _DOC,
    22: Field("sparse_tensor"),
    23: Field("sparse_tensors", _MANY),
}
VALUE: Fields = {3: _DOC, 4: _METADATA}
TENSOR: Fields = {
    1: RANK,
    2: Field("data_type"),
    4: Field("float_data", _MANY),
    5: Field("int32_data", _MANY),
    6: Field("string_data", 10_000_000),
    7: Field("int64_data", _MANY),
    9: Field("raw_data"),
    10: Field("double_data", _MANY),
    11: Field("uint64_data", _MANY),
    12: _DOC,
    13: Field("external_data", _MANY),
    14: Field("data_location"),
    16: _METADATA,
}
SPARSE_TENSOR: Fields = {1: Field("values"), 2: Field("indices"), 3: RANK}

NUMBERS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")

# Bits of an element by TensorProto.DataType.
STRING = 8
BITS: Mapping[int, int] = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
    15: 128,
}

# Operators whose output is not the same each time, a seed or not: the runtime goes on from one run to the next.
RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Sampling"}
)
# These are where this input is given and not false: training.
TRAINING_INPUT: Mapping[str, int] = {"Dropout": 2, "BitmaskDropout": 2, "BiasDropout": 4, "BitmaskBiasDropout": 4}

# "" is ai.onnx. These are the domains of which the runtime has operators that a file may use.
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
# These a file may name as long as it uses none of their operators: onnxruntime names all of its own in what it saves.
IMPORTS = DOMAINS | {
    "ai.onnx.training",
    "ai.onnx.preview",
    "ai.onnx.preview.training",
    "com.microsoft.experimental",
    "com.microsoft.nchwc",
    "com.ms.internal.nhwc",
    "org.pytorch.aten",
    "pkg.onnxscript.torch_lib",
    "pkg.onnxscript.torch_lib.common",
}
