"""What a model may be called, and how a request names one version of it.

The rule is an allow-list on raw bytes, so that no name can leave its folder, hide in a log or differ only by an
invisible character. `:` is outside it on purpose: `iris.onnx:3` always means version 3 of `iris.onnx`.
"""

import re
from dataclasses import dataclass

from mlbuffet.errors import InvalidNameError, UnsupportedTypeError, VersionNotFoundError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_VERSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)

# Words of the API that stand where a name could.
RESERVED = frozenset({"default", "download", "information", "prediction", "repository", "stats"})

# Suffixes of formats that are not served: refused by name already, so that nobody waits for an upload in vain.
FOREIGN_SUFFIXES = frozenset(
    [
        "bin",
        "caffemodel",
        "ckpt",
        "cloudpickle",
        "h5",
        "hdf5",
        "joblib",
        "keras",
        "mar",
        "mlmodel",
        "npy",
        "npz",
        "pb",
        "pickle",
        "pkl",
        "pt",
        "pth",
        "safetensors",
        "tar",
        "tf",
        "tflite",
        "tgz",
        "torchscript",
        "zip",
    ]
)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model as a request names it: `version` None stands for the default version."""

    name: str
    version: int | None = None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}:{self.version}"


def is_model_name(name: str) -> bool:
    """Tell whether a folder entry can be a model."""
    return _NAME.fullmatch(name) is not None and ".." not in name and name.lower() not in RESERVED


def is_version(name: str) -> bool:
    """Tell whether a folder entry can be a version."""
    return _VERSION.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return the name if a model may have it.

    Raises:
        InvalidNameError: outside the allow-list, or a word of the API.
        UnsupportedTypeError: it ends in the suffix of a format that is not served.
    """
    if not is_model_name(name):
        msg = (
            f"a model name has 1 to 64 of the characters A-Z a-z 0-9 . _ -, begins with a letter or digit, holds no "
            f"'..' and is no word of the API; received {name[:80]!a}"
        )
        raise InvalidNameError(msg)
    suffix = name.lower().rpartition(".")[2]
    if "." in name and suffix in FOREIGN_SUFFIXES:
        msg = f"models are served from ONNX files; received the name of a .{suffix} file"
        raise UnsupportedTypeError(msg)
    return name


def parse_ref(text: str) -> ModelRef:
    """Read `name`, `name:3` or `name:default`.

    Raises:
        InvalidNameError: the name is outside the allow-list.
        VersionNotFoundError: what follows the colon is neither a version number nor `default`.
    """
    name, colon, version = text.partition(":")
    check_name(name)
    if not colon or version == "default":
        return ModelRef(name)
    if not is_version(version):
        msg = f"a version is a number from 1 or the word 'default'; received {version[:80]!a}"
        raise VersionNotFoundError(msg)
    return ModelRef(name, int(version))
