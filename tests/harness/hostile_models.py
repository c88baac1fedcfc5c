"""Model files made to do harm, by the row of the acceptance table that they belong to. None passes onnx.checker."""

import io
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.harness.zoo import lethal

_IR = 8
_OPSETS = {"": 17}
_EXTERNAL = TensorProto.EXTERNAL

Shape = list[int | str | None] | None


def value(name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(nodes: list[NodeProto], initializers: list[TensorProto] | None = None, shape: Shape = None) -> GraphProto:
    """One input x, one output y, and these nodes between."""
    x, y = value("x", [1] if shape is None else shape), value("y", None)
    return helper.make_graph(nodes, "hostile", [x], [y], initializers or [])


def model(
    body: GraphProto,
    *,
    functions: list[onnx.FunctionProto] | None = None,
    opsets: Mapping[str, int] = _OPSETS,
    ir_version: int = _IR,
) -> ModelProto:
    """A model of this graph, unchecked."""
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return helper.make_model(body, opset_imports=imports, ir_version=ir_version, functions=functions or [])


def of_nodes(*nodes: NodeProto, shape: Shape = None, **initializers: np.ndarray[Any, Any]) -> bytes:
    """A model of these nodes and initializers as bytes."""
    tensors = [numpy_helper.from_array(array, name) for name, array in initializers.items()]
    opsets = _OPSETS | {node.domain: 1 for node in nodes if node.domain}
    data: bytes = model(graph(list(nodes), tensors, shape), opsets=opsets).SerializeToString()
    return data


def harmless() -> NodeProto:
    return helper.make_node("Identity", ["x"], ["y"])


# M01, M02, M04 -----------------------------------------------------------------------------------------------------


def outside(location: str, **more: str) -> TensorProto:
    """A tensor of 8 floats whose data is in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[8], data_location=_EXTERNAL)
    for key, text in ({"location": location} | more).items():
        tensor.external_data.add(key=key, value=text)
    return tensor


def external(location: str, **more: str) -> bytes:
    """An initializer with external data."""
    add = helper.make_node("Add", ["x", "w"], ["y"])
    data: bytes = model(graph([add], [outside(location, **more)])).SerializeToString()
    return data


def external_everywhere(location: str) -> dict[str, bytes]:
    """External data in every place that can hold a tensor."""
    tensor = outside(location)
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    several = NodeProto(op_type="Identity", input=["x"], output=["y"])
    several.attribute.append(AttributeProto(name="t", type=AttributeProto.TENSORS, tensors=[tensor]))
    sparse = onnx.SparseTensorProto(values=tensor, indices=TensorProto(data_type=7, dims=[0]), dims=[8])
    sparse_body = graph([harmless()])
    sparse_body.sparse_initializer.append(sparse)
    sparse_node = NodeProto(op_type="Constant", output=["w"])
    sparse_node.attribute.append(
        AttributeProto(name="sparse_value", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse)
    )
    inner = helper.make_graph([constant], "inner", [], [value("w", [8])])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    function = helper.make_function("own", "f", ["a"], ["b"], [constant, harmless()], [helper.make_opsetid("", 17)])
    entries_only = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], raw_data=b"\0" * 4)
    entries_only.external_data.add(key="location", value=location)
    found = {
        "attribute": model(graph([constant, harmless()])),
        "attribute of several": model(graph([several])),
        "sparse initializer": model(sparse_body),
        "sparse attribute": model(graph([sparse_node, harmless()])),
        "subgraph": model(graph([branch])),
        "function": model(graph([harmless()]), functions=[function], opsets=_OPSETS | {"own": 1}),
        "entries without the mark": model(graph([harmless()], [entries_only])),
    }
    return {name: proto.SerializeToString() for name, proto in found.items()}


# M05, M06 ----------------------------------------------------------------------------------------------------------


def functions(*calls: tuple[str, list[str]], entry: str) -> bytes:
    """Local functions, each a list of those it calls, and a graph that calls one."""
    made = []
    for name, callees in calls:
        steps = ["a", *(f"s{number}" for number in range(len(callees) - 1)), "b"]
        nodes = [
            helper.make_node(callee or "Identity", [steps[at]], [steps[at + 1]], domain="own" if callee else "")
            for at, callee in enumerate(callees)
        ]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        made.append(helper.make_function("own", name, ["a"], ["b"], nodes, imports))
    call = helper.make_node(entry, ["x"], ["y"], domain="own")
    data: bytes = model(graph([call]), functions=made, opsets=_OPSETS | {"own": 1}).SerializeToString()
    return data


def function_chain(depth: int) -> bytes:
    """Each function calls the next once."""
    calls = [(f"f{number}", [f"f{number + 1}"]) for number in range(depth - 1)]
    return functions(*calls, (f"f{depth - 1}", [""]), entry="f0")


def function_bomb(depth: int) -> bytes:
    """Each function calls the next twice: 2**depth nodes once they are put in."""
    calls = [(f"f{number}", [f"f{number + 1}"] * 2) for number in range(depth - 1)]
    return functions(*calls, (f"f{depth - 1}", [""]), entry="f0")


def endless_functions() -> dict[str, bytes]:
    return {
        "3,000 deep": function_chain(3_000),
        "900 deep": function_chain(900),
        "calls itself": functions(("f", ["f"]), entry="f"),
        "call each other": functions(("f", ["g"]), ("g", ["f"]), entry="f"),
        "doubling": function_bomb(30),
    }


# M08 ---------------------------------------------------------------------------------------------------------------


def tensor_of(dims: list[int], data: bytes, kind: int = TensorProto.FLOAT) -> bytes:
    """An initializer with these dimensions and this data."""
    tensor = TensorProto(name="w", data_type=kind, dims=dims, raw_data=data)
    made: bytes = model(graph([helper.make_node("Add", ["x", "w"], ["y"])], [tensor])).SerializeToString()
    return made


def too_large() -> dict[str, bytes]:
    """Models that say they have, or make, more than any machine holds."""
    fill = helper.make_node("ConstantOfShape", ["size"], ["c"])
    most = helper.make_node("ReduceMax", ["c"], ["m"], keepdims=0)
    add = helper.make_node("Add", ["x", "m"], ["y"])
    int64_data = TensorProto(name="w", data_type=TensorProto.INT64, dims=[1 << 38], int64_data=[0] * 16)
    merged = tensor_of([2], b"\0" * 8)
    sparse_body = graph([harmless()])
    values = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], raw_data=b"\0" * 4)
    indices = TensorProto(data_type=TensorProto.INT64, dims=[1], raw_data=b"\0" * 8)
    sparse_body.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=indices, dims=[1 << 38]))
    return {
        "ConstantOfShape": of_nodes(fill, most, add, size=np.array([1 << 40])),
        "overflowing dims": tensor_of([1 << 62, 8], b"\0" * 16),
        "dims beyond the data": tensor_of([1 << 38], b"\0" * 16),
        "dims beyond the numbers": model(graph([harmless()], [int64_data])).SerializeToString(),
        "negative dims": tensor_of([-4, -1], b"\0" * 16),
        "unknown type": tensor_of([4], b"\0" * 16, kind=99),
        "two graphs": merged + merged,
        "sparse": model(sparse_body).SerializeToString(),
        "huge input": of_nodes(harmless(), shape=[1 << 40]),
        "input beyond addresses": of_nodes(harmless(), shape=[1 << 62, 8]),
    }


# M09 ---------------------------------------------------------------------------------------------------------------


def loop(*, always: bool) -> bytes:
    """A Loop that never ends; unless `always`, only for an x above zero."""
    step = [
        helper.make_node("Identity", ["go_in"], ["go_out"]),
        helper.make_node("Mul", ["v_in", "v_in"], ["v_out"]),
    ]
    inputs = [value("i", [], TensorProto.INT64), value("go_in", [], TensorProto.BOOL), value("v_in", [1])]
    body = helper.make_graph(step, "body", inputs, [value("go_out", [], TensorProto.BOOL), value("v_out", [1])])
    nodes = [
        helper.make_node("Greater", ["x", "bound"], ["go_on"]),
        helper.make_node("Squeeze", ["go_on"], ["go"]),
        helper.make_node("Loop", ["", "go", "x"], ["y"], body=body),
    ]
    bound = np.array([-1 if always else 0], np.float32)
    return of_nodes(*nodes, bound=bound)


# P10 ---------------------------------------------------------------------------------------------------------------


def greedy(operator: str) -> bytes:
    """Counts a tensor of as many 64-bit numbers as it is told to make: `n` [1] -> their number."""
    make = {
        "Expand": helper.make_node("Expand", ["one", "x"], ["made"]),
        "Tile": helper.make_node("Tile", ["one", "x"], ["made"]),
        "Range": helper.make_node("Range", ["zero", "n", "step"], ["made"]),
    }[operator]
    nodes = [
        helper.make_node("Squeeze", ["x"], ["n"]),
        make,
        helper.make_node("Neg", ["made"], ["used"]),  # or the runtime would see that only the shape counts
        helper.make_node("Size", ["used"], ["y"]),
    ]
    if operator != "Range":
        nodes.pop(0)
    scalars = {"one": np.ones(1, np.int64), "zero": np.array(0), "step": np.array(1)}
    tensors = [numpy_helper.from_array(array, name) for name, array in scalars.items()]
    x, y = value("x", [1], TensorProto.INT64), value("y", [], TensorProto.INT64)
    body = helper.make_graph(nodes, "greedy", [x], [y], tensors)
    data: bytes = model(body).SerializeToString()
    return data


# M11 ---------------------------------------------------------------------------------------------------------------


def broken_kernels() -> dict[str, bytes]:
    """Attributes and weights that kernels are known to have trusted."""
    floats = np.ones((4, 4), np.float32)
    pool: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [0, 0]}
    picture: Shape = [1, 1, 4, 4]
    conv = helper.make_node("Conv", ["x", "w"], ["y"], strides=[0, 0])
    bits: dict[str, Any] = {"K": 1 << 20, "N": 1 << 20, "bits": 4, "block_size": 32, "domain": "com.microsoft"}
    matmul = helper.make_node("MatMulNBits", ["x", "b", "s"], ["y"], **bits)
    heads: dict[str, Any] = {"num_heads": 1, "qkv_hidden_sizes": [1 << 20, 1 << 20, 1 << 20], "domain": "com.microsoft"}
    attention = helper.make_node("Attention", ["x", "w", "b"], ["y"], **heads)
    resize = helper.make_node("Resize", ["x", "", "s"], ["y"])
    packed, scales = np.zeros((1, 1, 16), np.uint8), np.ones(1, np.float32)
    return {
        "DepthToSpace": lethal(),
        "Conv": of_nodes(conv, shape=picture, w=np.ones((1, 1, 2, 2), np.float32)),
        "AveragePool": of_nodes(helper.make_node("AveragePool", ["x"], ["y"], **pool), shape=picture),
        "MaxPool": of_nodes(helper.make_node("MaxPool", ["x"], ["y"], **pool), shape=picture),
        "MatMulNBits": of_nodes(matmul, shape=[1, 1 << 20], b=packed, s=scales),
        "Attention": of_nodes(attention, shape=[1, 2, 4], w=floats, b=np.ones(4, np.float32)),
        "Resize": of_nodes(resize, shape=picture, s=np.ones(64, np.float32)),
    }


# M12 ---------------------------------------------------------------------------------------------------------------


def _varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def field(number: int, content: bytes) -> bytes:
    """A protobuf field of bytes."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def nested(levels: int) -> bytes:
    """An If in an If in an If, and so on; written by hand, since protobuf's own limit stops onnx at about 30."""
    flat = helper.make_graph([helper.make_node("Identity", ["x"], ["r"])], "flat", [], [value("r", None)])
    inner = flat.SerializeToString()
    for _ in range(levels):
        branches = [("then_branch", inner), ("else_branch", flat.SerializeToString())]
        attributes = [field(5, field(1, name.encode()) + field(6, body) + b"\xa0\1\5") for name, body in branches]
        node = field(1, b"c") + field(2, b"r") + field(4, b"If") + b"".join(attributes)
        inner = field(1, node) + field(2, b"level") + field(12, value("r", None).SerializeToString())
    inputs = [value("x", [1]), value("c", [], TensorProto.BOOL)]
    whole = model(graph([harmless()]))
    whole.ClearField("graph")
    rest: bytes = whole.SerializeToString()
    return rest + field(7, inner + b"".join(field(11, item.SerializeToString()) for item in inputs))


def repeated(number: int, content: bytes, times: int) -> bytes:
    """A model whose graph has one field many times."""
    whole = model(graph([harmless()]))
    body = whole.graph.SerializeToString() + field(number, content) * times
    whole.ClearField("graph")
    rest: bytes = whole.SerializeToString()
    return rest + field(7, body)


def too_complex() -> dict[str, bytes]:
    node = helper.make_node("Identity", ["x"], ["z"]).SerializeToString()
    entry = field(1, b"key") + field(2, b"text")
    documented = model(graph([harmless()]))
    documented.doc_string = "x" * 100_000_000
    return {
        "nested": nested(200),
        "nodes": repeated(1, node, 1_000_000),
        "inputs": repeated(11, value("i", [1]).SerializeToString(), 100_000),
        "graph metadata": repeated(16, entry, 100_000),
        "metadata": model(graph([harmless()])).SerializeToString() + field(14, entry) * 100_000,
        "documentation": documented.SerializeToString(),
    }


# M13, M14, M15 -----------------------------------------------------------------------------------------------------


def unknown_operators() -> dict[str, bytes]:
    evil = helper.make_node("Run", ["x"], ["y"], domain="com.evil")
    inner = helper.make_graph([helper.make_node("Run", [], ["r"], domain="com.evil")], "g", [], [value("r", None)])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    return {
        "node": of_nodes(evil),
        "subgraph": model(graph([branch]), opsets=_OPSETS | {"com.evil": 1}).SerializeToString(),
        "import": model(graph([harmless()]), opsets=_OPSETS | {"com.evil": 1}).SerializeToString(),
        "python": of_nodes(helper.make_node("PyOp", ["x"], ["y"], domain="ai.onnx.contrib", module="os")),
    }


def unknown_versions() -> dict[str, bytes]:
    context = helper.make_node(
        "EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=0, ep_cache_context="evil.so", source="evil"
    )
    return {
        "opset": model(graph([harmless()]), opsets={"": 999}).SerializeToString(),
        "ir_version": model(graph([harmless()]), ir_version=99).SerializeToString(),
        "no ir_version": model(graph([harmless()]), ir_version=0).SerializeToString(),
        "operator": of_nodes(helper.make_node("NoSuchOperator", ["x"], ["y"])),
        "context": of_nodes(context),
        "runtime's own format": b"\x18\0\0\0ORTM" + b"\0" * 64,
    }


class _Touch:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self._canary), "w"))


def pickles(canary: Path) -> dict[str, bytes]:
    """What `pickle`, `joblib` and `torch.load` would run."""
    plain = [pickle.dumps(_Touch(canary), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    torch = archive({"archive/data.pkl": plain[2], "archive/version": b"3"})
    flagged = bytearray(torch)
    flagged[6] ^= 1  # says that it is encrypted
    damaged = torch.replace(plain[2], plain[2][:-1] + b"!")
    found = {f"protocol {number}": data for number, data in enumerate(plain)}
    return found | {"torch": torch, "flag bits": bytes(flagged), "bad CRC": damaged, "joblib": b"\x78\x9c" + plain[4]}


def archive(members: Mapping[str, bytes]) -> bytes:
    """A zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return file.getvalue()


def archives(canary: Path) -> dict[str, bytes]:
    """Zip and tar files that would write elsewhere, or without end."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed:
        for name, link in (("link", str(canary.parent)), ("../up", ""), (str(canary), ""), ("link/through", "")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.REGTYPE, "")
            packed.addfile(member)
    found = {
        "upwards": archive({f"../{canary.name}": b"x"}),
        "absolute": archive({str(canary): b"x"}),
        "bomb": archive({"model.onnx": b"\0" * 50_000_000}),
        "library": archive({"model.onnx": of_nodes(harmless()), "evil.so": b"\x7fELF" + b"\0" * 60}),
        "tar": file.getvalue(),
    }
    return found | {"hidden": found["bomb"] + of_nodes(harmless()), "empty members": b"PK\3\4" * 1_000_000}
