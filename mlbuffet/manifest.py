"""What is recorded of one model version: a frozen dataclass, and its JSON beside the model file.

Versions are immutable in their bytes; description, image settings and the pin are the operator's and may change.
Fields this release does not know are kept as they are, so that a newer release's manifest survives a step back.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from mlbuffet.errors import UnprocessableError

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"

_MAX_DESCRIPTION = 10_000
_MAX_LABELS = 100_000


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output. `datatype` in the words of the Open Inference Protocol; a dynamic axis is None."""

    name: str
    datatype: str
    shape: tuple[int | None, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` wrote.

        Raises:
            KeyError, TypeError: it is something else.
        """
        spec = cls(data["name"], data["datatype"], tuple(data["shape"]))
        axes_fit = all(axis is None or (type(axis) is int and axis >= 0) for axis in spec.shape)
        if not (isinstance(spec.name, str) and isinstance(spec.datatype, str) and axes_fit):
            msg = "an input or output has a name, a datatype and a shape of lengths and nulls"
            raise TypeError(msg)
        return spec


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives, in the model's own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` wrote."""
        inputs = tuple(TensorSpec.from_json(spec) for spec in data["inputs"])
        return cls(inputs, tuple(TensorSpec.from_json(spec) for spec in data["outputs"]))


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """How pixels become the input: `(pixel * scale - mean) / std` per channel, pixels from 0 to 255."""

    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read and check what a user gave.

        Raises:
            UnprocessableError: an unknown field, or one of the wrong type.
        """
        data = _settings("image", "scale, mean, std and labels", data, cls)
        std = _numbers("std", data.get("std", ()))
        if 0 in std:
            msg = "std must not hold 0"
            raise UnprocessableError(msg)
        (scale,) = _numbers("scale", [data.get("scale", 1.0)])
        return cls(scale, _numbers("mean", data.get("mean", ())), std, _labels(data.get("labels", ())))


def _settings(kind: str, names: str, data: object, target: type) -> Mapping[str, Any]:
    """Settings as a user gave them, an object of no other fields than the dataclass `target` has."""
    if not isinstance(data, Mapping):
        msg = f"{kind} settings are an object; received {type(data).__name__}"
        raise UnprocessableError(msg)
    unknown = set(data) - {spec.name for spec in fields(target)}
    if unknown:
        msg = f"{kind} settings are {names}; received {min(unknown)[:80]!a}"
        raise UnprocessableError(msg)
    return data


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """How a version is run; None leaves it to what was measured when it was loaded."""

    batch_rows: int | None = None  # run together at most
    runners: int | None = None  # processes on each modelhost
    threads: int | None = None  # of each run
    cache: bool = False  # answer an exact repetition without running

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read and check what a user gave.

        Raises:
            UnprocessableError: an unknown field, or one of the wrong type.
        """
        data = _settings("serving", "batch_rows, cache, runners and threads", data, cls)
        if type(data.get("cache", False)) is not bool:
            msg = f"cache is true or false; received {type(data['cache']).__name__}"
            raise UnprocessableError(msg)
        return cls(**{name: _count(name, data.get(name)) for name in _MOST_OF}, cache=data.get("cache", False))


_MOST_OF: Mapping[str, int] = {"batch_rows": 1024, "runners": 64, "threads": 256}


def _count(name: str, value: object) -> int | None:
    """A whole number within bounds, or None."""
    if value is None or (type(value) is int and 1 <= value <= _MOST_OF[name]):
        return value
    msg = f"{name} is a whole number from 1 to {_MOST_OF[name]}, or null"
    raise UnprocessableError(msg)


def _numbers(name: str, value: object) -> tuple[float, ...]:
    """A tuple of at most four finite numbers, one per channel."""
    right = isinstance(value, (list, tuple)) and len(value) <= 4  # noqa: PLR2004 - RGBA has the most channels
    if not right or not all(type(item) in {int, float} and math.isfinite(item) for item in value):  # type: ignore[attr-defined]
        msg = f"{name} holds finite numbers, one per channel"
        raise UnprocessableError(msg)
    return tuple(map(float, value))  # type: ignore[call-overload]


def _labels(value: object) -> tuple[str, ...]:
    if isinstance(value, (list, tuple)) and len(value) <= _MAX_LABELS and all(isinstance(item, str) for item in value):
        return tuple(value)
    msg = f"labels is a list of at most {_MAX_LABELS} strings"
    raise UnprocessableError(msg)


def check_description(value: object) -> str:
    """Return a description if it may be one.

    Raises:
        UnprocessableError: not a string, or too long.
    """
    if isinstance(value, str) and len(value) <= _MAX_DESCRIPTION:
        return value
    received = f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
    msg = f"model_description is a string of at most {_MAX_DESCRIPTION} characters; received {received}"
    raise UnprocessableError(msg)


# What a hand may have written, and what is not read by a class of its own.
_TYPES: Mapping[str, frozenset[type]] = (
    dict.fromkeys(("model", "digest", "created", "source", "description", "model_type"), frozenset({str}))
    | dict.fromkeys(("version", "size_bytes"), frozenset({int}))
    | dict.fromkeys(("pinned", "unloaded"), frozenset({bool}))
    | {
        "notes": frozenset({list}),
        "idempotency_key": frozenset({str, type(None)}),
        "golden": frozenset({dict, type(None)}),
        "deterministic": frozenset({bool, type(None)}),
        "run": frozenset({dict, type(None)}),
    }
)


_SETTINGS: Mapping[str, type[ImageSettings] | type[ServingSettings]] = {
    "image": ImageSettings,
    "serving": ServingSettings,
}


def _split(data: object, kind: type) -> tuple[object, dict[str, Any]]:
    """Settings in a file: those that this version knows, and those that only a newer one does."""
    if not isinstance(data, Mapping):
        return data, {}
    known = {spec.name for spec in fields(kind)}
    return (
        {name: value for name, value in data.items() if name in known},
        {name: value for name, value in data.items() if name not in known},
    )


@dataclass(frozen=True, slots=True)
class Manifest:
    """One version of one model. `created` is UTC in ISO 8601, `digest` is `sha256:` and 64 hex digits.

    `unknown` is what a newer version has written, in `image` and `serving` too: it is written again as it was.
    """

    model: str
    version: int
    digest: str
    size_bytes: int
    created: str
    source: str
    signature: Signature
    description: str = ""
    model_type: str = "onnx"
    image: ImageSettings = ImageSettings()
    serving: ServingSettings = ServingSettings()
    pinned: bool = False
    unloaded: bool = False  # by an operator, until it is loaded again
    idempotency_key: str | None = None
    notes: tuple[str, ...] = ()
    golden: Mapping[str, Any] | None = None
    deterministic: bool | None = None  # whether equal requests have equal answers, where that was looked at
    run: Mapping[str, Any] | None = None  # the training run that made it: its id, and the digests of what went in
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> bytes:
        """What names exactly these bytes on the data channel: a name used again after a delete is another key."""
        return f"{self.model}:{self.version}@{self.digest[7:23]}".encode()

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read a manifest file.

        Raises:
            KeyError, TypeError, ValueError, UnprocessableError: not a manifest.
        """
        if not isinstance(data, Mapping):
            msg = "a manifest is an object"
            raise TypeError(msg)
        known = {spec.name for spec in fields(cls)} - {"unknown"}
        values = {name: value for name, value in data.items() if name in known}
        for name in _TYPES.keys() & values:
            if type(values[name]) not in _TYPES[name]:
                msg = f"the manifest's {name} is of the wrong type"
                raise TypeError(msg)
        values["signature"] = Signature.from_json(values["signature"])
        unknown = {name: value for name, value in data.items() if name not in known}
        for name, kind in _SETTINGS.items():
            read, left = _split(values.get(name, {}), kind)
            values[name] = kind.from_json(read)
            if left:
                unknown[name] = left
        values["notes"] = tuple(map(str, values.get("notes", ())))
        return cls(**values, unknown=unknown)

    def to_json(self) -> dict[str, Any]:
        """What stands in the manifest file."""
        data = asdict(self)
        unknown: dict[str, Any] = data.pop("unknown")
        within = {name: data[name] | left for name, left in unknown.items() if name in _SETTINGS}
        return data | unknown | within

    def changed(self, **changes: object) -> Self:
        """A copy with the operator's fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


def read_key(key: bytes) -> tuple[str, int] | None:
    """Model and version in a channel key; None when it is none."""
    name, colon, rest = key.decode("ascii", "replace").partition(":")
    version = rest.partition("@")[0]
    return (name, int(version)) if colon and version.isdecimal() and len(version) < 10 else None  # noqa: PLR2004
