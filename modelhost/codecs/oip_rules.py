"""What the Open Inference Protocol asks of a request's tensors, whether they come by REST or gRPC. Pure."""

from collections.abc import Collection, Iterable, Sequence
from math import prod

from mlbuffet.errors import (
    BadRequestError,
    InvalidDatatypeError,
    InvalidOutputError,
    InvalidShapeError,
    MissingInputError,
    ModelOutputError,
    UnknownInputError,
)
from mlbuffet.manifest import Signature, TensorSpec
from modelhost.codecs.tensors import axes, quoted
from modelhost.runtimes.onnx import DTYPES

_UNSUPPORTED = ("classification", "shared_memory_region")
_SHOWN = 5
_MOST_ELEMENTS = 1 << 48  # numpy has a bound, also for what is empty


def named_inputs(names: Iterable[str], signature: Signature) -> list[TensorSpec]:
    """What the model says of the inputs that a request names, of which every one is to be there once.

    Raises:
        UnknownInputError, BadRequestError, MissingInputError: they are not.
    """
    known = {spec.name: spec for spec in signature.inputs}
    found: dict[str, TensorSpec] = {}
    for name in names:
        if name not in known:
            msg = f"the inputs are {quoted(known)}; received {quoted([name])}"
            raise UnknownInputError(msg)
        if name in found:
            msg = f"each input stands once in 'inputs'; received {quoted([name])} again"
            raise BadRequestError(msg)
        found[name] = known[name]
    if len(found) != len(known):
        msg = f"no values for the inputs {quoted(known.keys() - found.keys())}"
        raise MissingInputError(msg)
    return list(found.values())


def check_datatype(spec: TensorSpec, datatype: str) -> None:
    """Return if an input is of the datatype that the model takes.

    Raises:
        InvalidDatatypeError: it is not.
    """
    if datatype != spec.datatype:
        msg = f"{quoted([spec.name])} has the datatype {spec.datatype}; received {quoted([datatype])}"
        raise InvalidDatatypeError(msg)


def check_shape(spec: TensorSpec, shape: Sequence[int]) -> None:
    """Return if an input is of a shape that the model takes.

    Raises:
        InvalidShapeError: it is not.
    """
    if len(shape) == len(spec.shape) and prod(filter(None, shape)) < _MOST_ELEMENTS:
        for length, axis in zip(shape, spec.shape, strict=True):
            if length < 0 or axis not in {None, length}:
                break
        else:
            return
    more = f" and {len(shape) - _SHOWN} more" if len(shape) > _SHOWN else ""
    shown = ", ".join(str(length) for length in shape[:_SHOWN])
    msg = f"{quoted([spec.name])} has the shape {axes(spec.shape)}; received [{shown}{more}]"
    raise InvalidShapeError(msg)


def named_outputs(names: Sequence[str], signature: Signature) -> list[TensorSpec]:
    """What the model says of the outputs that a request names; without any, of all that are tensors.

    Raises:
        InvalidOutputError: an unknown or repeated name.
        ModelOutputError: what is asked for is no tensor.
    """
    if not names:
        return _all_outputs(signature)
    known = {spec.name: spec for spec in signature.outputs}
    found: dict[str, TensorSpec] = {}
    for name in names:
        if name not in known or name in found:
            msg = f"the outputs are {quoted(known)}, each at most once; received {quoted([name])}"
            raise InvalidOutputError(msg)
        if known[name].datatype not in DTYPES:
            msg = f"the output {quoted([name])} is no tensor but {known[name].datatype}"
            raise ModelOutputError(msg)
        found[name] = known[name]
    return list(found.values())


def _all_outputs(signature: Signature) -> list[TensorSpec]:
    tensors = [spec for spec in signature.outputs if spec.datatype in DTYPES]
    if not tensors:
        msg = "no output of the model is a tensor"
        raise ModelOutputError(msg)
    return tensors


def check_parameters(names: Collection[str]) -> None:
    """Return if a tensor's parameters ask for nothing that is not served.

    Raises:
        BadRequestError: they do, and the answer would not be what is expected.
    """
    for name in _UNSUPPORTED:
        if name in names:
            msg = f"the parameter {name} is of an extension that is not served here"
            raise BadRequestError(msg)
