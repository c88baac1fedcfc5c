"""Calls that may fail in one of our ways, and in no other."""

from collections.abc import Callable
from typing import TypeVar

from mlbuffet.errors import MLBuffetError

T = TypeVar("T")


def attempt(action: Callable[[], T]) -> tuple[T | None, MLBuffetError | None]:
    """What an action gives, or the error of ours that it raises; any other error is a failure."""
    try:
        return action(), None
    except MLBuffetError as error:
        return None, error
