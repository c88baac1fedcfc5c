"""Settings from environment variables: one frozen dataclass per service, read once at start.

`INFERRER_PORT=8002` fills the field `port` of the service with the prefix `INFERRER_`. A variable with the prefix and
no field is a typing error somewhere and refuses to start. `<NAME>_FILE` reads the value from a file, for secrets.
"""

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints
from urllib.parse import urlsplit

S = TypeVar("S")

Level = Annotated[str, "a level of the logging module"]

_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})


class SettingsError(ValueError):
    """The environment does not describe this service."""


def read_settings(cls: type[S], prefix: str, environ: Mapping[str, str]) -> S:
    """Build a settings dataclass from the variables that begin with `prefix`.

    Raises:
        SettingsError: an unknown variable, or a value that does not fit its field.
    """
    hints = get_type_hints(cls, include_extras=True)
    names = {spec.name for spec in fields(cls)}  # type: ignore[arg-type]
    values = {}
    for variable, text in environ.items():
        if not variable.startswith(prefix):
            continue
        name = variable.removeprefix(prefix).lower()
        if name not in names and name.removesuffix("_file") in names:
            name, text = name.removesuffix("_file"), _read_file(variable, text)  # noqa: PLW2901
        if name not in names:
            msg = f"unknown setting {variable}; known: {', '.join(prefix + known.upper() for known in sorted(names))}"
            raise SettingsError(msg)
        values[name] = _convert(variable, text, hints[name])
    return cls(**values)


def check_endpoint(endpoint: str, variable: str) -> None:
    """Refuse what is no address of a collector of traces; none at all is one.

    Raises:
        SettingsError: it is not.
    """
    url = urlsplit(endpoint)
    sound = url.scheme in {"http", "https"} and url.hostname and not (url.query or url.fragment or url.username)
    if endpoint and not sound:
        msg = f"{variable} is to be http(s)://host:port; received {endpoint[:80]!r}"
        raise SettingsError(msg)


def _read_file(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{variable} names a file that cannot be read: {error}"
        raise SettingsError(msg) from error


def _convert(variable: str, text: str, hint: Any) -> object:  # noqa: ANN401 - a type hint has no type of its own
    """Read one value as its field's type."""
    try:
        if hint == Level:
            return _level(text)
        if hint is bool:
            return _boolean(text)
        if hint == tuple[str, ...]:
            return tuple(item.strip() for item in text.split(",") if item.strip())
        if hint == Path | None:
            return Path(text) if text else None
        return hint(text)
    except ValueError as error:
        msg = f"{variable} is to be a {getattr(hint, '__name__', hint)}; received {text[:80]!r}"
        raise SettingsError(msg) from error


def _level(text: str) -> str:
    word = text.upper()
    if word not in logging.getLevelNamesMapping():
        raise ValueError(word)
    return word


def _boolean(text: str) -> bool:
    word = text.lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(word)
    return word in _TRUE
