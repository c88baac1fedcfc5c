"""MLBuffet: a model server for a small team. This is its public face for Python programs.

    from mlbuffet import Client, errors

`Client` is imported when it is first asked for: the services stand on this package too, and have no HTTP client.
"""

from typing import TYPE_CHECKING, Any

from mlbuffet import errors

if TYPE_CHECKING:
    from mlbuffet.client import Client

    __version__: str

__all__ = ["Client", "__version__", "errors"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever has the name
    """Import what costs something when it is asked for."""
    if name == "Client":
        from mlbuffet.client import Client  # noqa: PLC0415 - brings requests

        return Client
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - reads the installed distribution

        return version("mlbuffet")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
