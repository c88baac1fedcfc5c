"""Options that every command has that asks a server, and arguments that are JSON."""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from mlbuffet.client import Client

as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON and nothing else.")


def asks_server(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command --url and --key-file, and call it with a client of that server."""

    @click.option(
        "--url",
        envvar="MLBUFFET_URL",
        default="http://127.0.0.1:8002",
        show_default=True,
        show_envvar=True,
        help="Address of the server.",
    )
    @click.option(
        "--key-file",
        envvar="MLBUFFET_KEY_FILE",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        show_envvar=True,
        help="File that holds the API key.",
    )
    @functools.wraps(command)
    def run(*, url: str, key_file: Path | None, **options: object) -> None:
        try:
            key = None if key_file is None else key_file.read_text(encoding="utf-8").strip()
            client = Client(url, key)
        except UnicodeDecodeError:
            msg = f"{key_file} holds no text"
            raise click.UsageError(msg) from None
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        with client:
            command(client, **options)

    return run


class Json(click.ParamType[Any]):
    """JSON text, `@file` for a file that holds it, or `-` for standard input."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """Read the JSON; NaN and infinities are none."""
        try:
            return json.loads(_text(value), parse_constant=_refuse)
        except OSError as error:
            self.fail(f"{error.filename}: {error.strerror}", param, ctx)
        except (ValueError, RecursionError) as error:
            self.fail(f"this is not JSON: {error}", param, ctx)


def _text(value: str) -> str | bytes:
    if value == "-":
        return sys.stdin.buffer.read()
    return Path(value[1:]).read_bytes() if value.startswith("@") else value


def _refuse(word: str) -> NoReturn:
    msg = f"{word} is no JSON"
    raise ValueError(msg)
