"""The decision: one walk through a file's bytes, in which everything is looked at once.

A model is one file: data in other files is refused wherever it hides. Its operators come from domains of the runtime,
or are the model's own functions. It is not larger than the runtime can bear: some of whose limits are its stack or the
machine's memory. What only the runtime knows, for instance whether an operator exists, is left to it.
"""

import math
from collections import Counter
from collections.abc import Sequence

from mlbuffet.errors import ExternalDataError, InvalidModelError, ModelTooComplexError, ModelUnsafeError
from modelhost.structure import schema
from modelhost.structure.calls import Body, FunctionKey, check_calls
from modelhost.structure.wire import Message, Span, read_message, read_numbers


def check_structure(data: bytes) -> bool:
    """Refuse what no model may be; tells whether the model gives the same each time it is given the same.

    Raises:
        InvalidModelError: not an ONNX model, or a tensor's data is not what its dimensions say.
        ExternalDataError: it keeps data elsewhere.
        ModelUnsafeError: it has operators from elsewhere.
        ModelTooComplexError: it is beyond a limit.
    """
    walk = _Walk(data)
    walk.model()
    return walk.deterministic


class _Walk:
    """One walk through a file, and what it counts on its way."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._domains = schema.DOMAINS
        self.deterministic = True
        self._text_bytes = 0
        self._nodes = self._nodes_before = 0
        self._calls: Counter[FunctionKey] = Counter()

    def model(self) -> None:
        """Look at everything."""
        model = self._read(Span(0, len(self._data)), schema.MODEL)
        if not model.all("graph") or not 0 < model.number("ir_version") <= schema.IR_VERSION:
            msg = "the file is not a model: it has no graph, or no version of the format that there is"
            raise InvalidModelError(msg)
        functions = [self._read(span, schema.FUNCTION) for span in model.all("functions")]
        keys = [self._key(function, "name") for function in functions]
        self._domains |= {key.domain for key in keys}
        self._imports(model.all("opset_import"))
        bodies = {key: self._function(function) for key, function in zip(keys, functions, strict=True)}
        self._begin_body()
        for training in model.all("training_info"):
            for graph in self._read(training, schema.TRAINING).all("initialization", "algorithm"):
                self._graph(graph, 0)
        self._graph(model.all("graph")[0], 0)
        check_calls(self._end_body(), bodies)

    def _read(self, span: Span, fields: schema.Fields) -> Message:
        """Read a message, and count its documentation and metadata."""
        message = read_message(self._data, span, fields)
        self._text_bytes += sum(text.size for text in message.all(*schema.TEXTS))
        if self._text_bytes > schema.TEXT_BYTES:
            msg = f"the model has more than {schema.TEXT_BYTES:,} bytes of documentation and metadata"
            raise ModelTooComplexError(msg)
        return message

    def _text(self, message: Message, name: str) -> str:
        """A text that is there once, or nothing."""
        return "".join(self._data[begin:end].decode(errors="replace") for begin, end in message.all(name))

    def _key(self, message: Message, name: str) -> FunctionKey:
        domain = self._text(message, "domain")
        overload = self._text(message, "overload")
        return FunctionKey("" if domain == "ai.onnx" else domain, self._text(message, name), overload)

    def _imports(self, spans: Sequence[Span]) -> None:
        for span in spans:
            imported = self._read(span, schema.IMPORT)
            _allow(self._text(imported, "domain"), self._domains | schema.IMPORTS)
            if not 0 < imported.number("version") <= schema.OPSET:
                msg = "the file is not a model: it imports a version of operators that there is not"
                raise InvalidModelError(msg)

    # Graphs and functions -------------------------------------------------------------------------------------------

    def _begin_body(self) -> None:
        self._nodes_before, self._calls = self._nodes, Counter()

    def _end_body(self) -> Body:
        return Body(self._nodes - self._nodes_before, self._calls)

    def _function(self, function: Message) -> Body:
        self._begin_body()
        self._imports(function.all("opset_import"))
        self._values(function.all("value_info"))
        for attribute in function.all("attribute_proto"):
            self._attribute(attribute, 0)
        for node in function.all("node"):
            self._node(node, 0)
        return self._end_body()

    def _graph(self, span: Span, level: int) -> None:
        if level > schema.LEVELS:
            msg = f"the model has graphs in graphs, more than {schema.LEVELS} deep"
            raise ModelTooComplexError(msg)
        graph = self._read(span, schema.GRAPH)
        self._values(graph.all("input", "output", "value_info"))
        for tensor in graph.all("initializer"):
            self._tensor(tensor)
        for sparse in graph.all("sparse_initializer"):
            self._sparse_tensor(sparse)
        for node in graph.all("node"):
            self._node(node, level)

    def _values(self, spans: Sequence[Span]) -> None:
        for span in spans:
            self._read(span, schema.VALUE)

    def _node(self, span: Span, level: int) -> None:
        self._nodes += 1
        if self._nodes > schema.NODES:
            msg = f"the model has more than {schema.NODES:,} nodes"
            raise ModelTooComplexError(msg)
        node = self._read(span, schema.NODE)
        key = self._key(node, "op_type")
        _allow(key.domain, self._domains)
        self._calls[key] += 1
        self.deterministic &= not _is_random(key.name, node.all("input"))
        for attribute in node.all("attribute"):
            self._attribute(attribute, level)

    def _attribute(self, span: Span, level: int) -> None:
        attribute = self._read(span, schema.ATTRIBUTE)
        for tensor in attribute.all("t", "tensors"):
            self._tensor(tensor)
        for sparse in attribute.all("sparse_tensor", "sparse_tensors"):
            self._sparse_tensor(sparse)
        for graph in attribute.all("g", "graphs"):
            self._graph(graph, level + 1)

    # Tensors --------------------------------------------------------------------------------------------------------

    def _tensor(self, span: Span) -> Message:
        """Look at a tensor: its data is all here, and as much as its dimensions say."""
        tensor = self._read(span, schema.TENSOR)
        if tensor.all("external_data") or tensor.number("data_location"):
            msg = "the model keeps data in other files; a model is one file with everything in it"
            raise ExternalDataError(msg)
        if not _fits(tensor, self._elements(tensor)):
            msg = "the file is not a model: a tensor's data is not what its type and its dimensions say"
            raise InvalidModelError(msg)
        return tensor

    def _sparse_tensor(self, span: Span) -> None:
        sparse = self._read(span, schema.SPARSE_TENSOR)
        kinds = [self._tensor(tensor).number("data_type") for tensor in sparse.all("values", "indices")]
        bits = max((schema.BITS.get(kind, 0) for kind in kinds), default=0)
        if self._elements(sparse) * bits > schema.DENSE_BYTES * 8:
            msg = f"the model has a sparse tensor that takes more than {schema.DENSE_BYTES:,} bytes"
            raise ModelTooComplexError(msg)

    def _elements(self, tensor: Message) -> int:
        """The product of the dimensions."""
        packed = [number for span in tensor.all("dims") for number in read_numbers(self._data, span, schema.RANK)]
        dimensions = [*tensor.numbers.get("dims", ()), *packed]
        if any(dimension >> 63 for dimension in dimensions):
            msg = "the file is not a model: a tensor has a negative dimension"
            raise InvalidModelError(msg)
        return math.prod(dimensions)


def _fits(tensor: Message, elements: int) -> bool:
    """Tell whether a tensor has the data for its elements; where numbers vary in length, whether it can have it."""
    kind = tensor.number("data_type")
    if kind == schema.STRING:
        return elements == len(tensor.all("string_data"))
    bits = schema.BITS.get(kind)
    if bits is None:
        return False
    if raw := tensor.all("raw_data"):
        return (elements * bits + 7) // 8 == raw[0].size
    stored = sum(span.size for span in tensor.all(*schema.NUMBERS))
    stored += sum(len(tensor.numbers.get(name, ())) for name in schema.NUMBERS)
    return elements * min(bits, 8) <= stored * 8


def _is_random(operator: str, inputs: Sequence[Span]) -> bool:
    """Tell whether a node's output may differ from run to run; an input of no length is none."""
    training = inputs[schema.TRAINING_INPUT.get(operator, len(inputs)) :][:1]
    return operator in schema.RANDOM or any(span.size for span in training)


def _allow(domain: str, allowed: frozenset[str]) -> None:
    if domain not in allowed:
        msg = f"the model wants operators of the domain {domain[:80]!a}, which are not taken"
        raise ModelUnsafeError(msg)
