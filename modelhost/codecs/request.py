"""What every codec gives the runner: named arrays, which outputs are wanted, and how to write the answer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlbuffet.manifest import Signature

Array = np.ndarray[Any, Any]


class Served(NamedTuple):
    """The version that a request is for."""

    name: str
    version: int
    signature: Signature


class Answer(NamedTuple):
    """An answer's body in pieces, and how much of it is JSON where tensors follow."""

    pieces: Sequence[bytes | memoryview]
    split: int = 0


class Decoded(NamedTuple):
    """A request as the runner sees it; `encode` takes the outputs in the order of `outputs`.

    `encode` raises ModelOutputError for what has no form in the protocol. Where requests of one row each have the same
    `encode_rows`, it makes all their answers out of the joint outputs, or none where each is to be made alone.
    """

    feeds: Mapping[str, Array]
    outputs: tuple[str, ...]
    encode: Callable[[Sequence[Any]], Answer]
    encode_rows: Callable[[Sequence[Any]], Sequence[Answer]] | None = None

    def some(self, first: int, count: int) -> "Decoded":  # noqa: ARG002 - as of those that were read together
        """It is one."""
        return self
