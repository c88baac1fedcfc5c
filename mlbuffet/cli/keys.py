"""`mlbuffet keys …`: create, list and revoke API keys."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from mlbuffet.answers import NewKey
from mlbuffet.cli.output import write_json, write_line
from mlbuffet.cli.server import as_json, asks_server
from mlbuffet.cli.tables import write_table
from mlbuffet.client import Client
from mlbuffet.keys import SCOPES, Wish


@click.group()
def keys() -> None:
    """Manage API keys; from the first one on nobody is answered without a key."""


@keys.command()
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, required=True, type=click.Choice(SCOPES), help="What it may do; several times."
)
@click.option("--days", type=click.FloatRange(0, 36_500, min_open=True), help="Days until it expires; else never.")
@click.option("--rate", type=click.FloatRange(0, 1e6, min_open=True), help="Requests a second; else any number.")
@click.option(
    "--to", type=click.Path(path_type=Path, dir_okay=False), help="Write the key to this new file, as for --key-file."
)
@click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write to this repository folder instead of asking a server: the first key, or when all are lost.",
)
@as_json
@asks_server
def create(  # noqa: PLR0913 - click gives each option an argument
    client: Client,
    name: str,
    scopes: tuple[str, ...],
    days: float | None,
    rate: float | None,
    to: Path | None,
    repository: Path | None,
    *,
    as_json: bool,
) -> None:
    """Make a key called NAME and show it, this once."""
    moment = None if days is None else datetime.now(UTC) + timedelta(days=days)
    expires = None if moment is None else moment.isoformat(timespec="seconds")
    if to is not None:
        os.close(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # before there is a key that could be lost
    try:
        if repository is not None:
            made = _made_in(repository, Wish(name, scopes, expires, rate))
        else:
            made = client.create_key(name, scopes, expires=expires, rate=rate)
    except BaseException:
        if to is not None:
            to.unlink()
        raise
    if to is not None:
        to.write_text(f"{made['key']}\n", encoding="ascii")
    if as_json:
        write_json(made if to is None else {field: value for field, value in made.items() if field != "key"})
    else:
        write_line(made["key"] if to is None else f"{made['id']}: {made['name']}, in {to}")


def _made_in(repository: Path, wish: Wish) -> NewKey:
    """Make a key without a server.

    Raises:
        UsageError: the keys there cannot be read.
    """
    try:
        from mlbuffet.keystore import KeyStore, KeyStoreError  # noqa: PLC0415 - not always installed
    except ImportError as error:
        msg = f"the services are not installed ({error.name} is missing): pip install 'mlbuffet[local]'"
        raise click.UsageError(msg) from error
    try:
        key, text = KeyStore(repository).make(wish)
    except KeyStoreError as error:
        raise click.UsageError(str(error)) from error
    return {**key.shown(), "key": text}  # type: ignore[typeddict-item]


@keys.command("list")
@as_json
@asks_server
def list_keys(client: Client, *, as_json: bool) -> None:
    """List the keys, without the keys themselves."""
    found = client.api_keys()
    if as_json:
        write_json(found)
        return
    columns = ("id", "name", "scopes", "created", "expires", "rate")
    write_table(columns, [[_cell(key[column]) for column in columns] for key in found])  # type: ignore[literal-required]


def _cell(value: Any) -> str:  # noqa: ANN401 - any field
    return "" if value is None else " ".join(value) if isinstance(value, list) else str(value)


@keys.command()
@click.argument("key_id", metavar="ID")
@as_json
@asks_server
def revoke(client: Client, key_id: str, *, as_json: bool) -> None:
    """Revoke the key ID: it counts no longer, anywhere."""
    client.revoke_key(key_id)
    if as_json:
        write_json({"revoked": key_id})
    else:
        write_line(f"{key_id} is revoked")
