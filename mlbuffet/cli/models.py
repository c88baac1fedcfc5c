"""`mlbuffet models …`: list, show, push, pull, describe, roll back and remove models."""

from pathlib import Path
from typing import IO, Any

import click

from mlbuffet.answers import Loaded, ModelDetails, Tensor, Version
from mlbuffet.cli.output import size, write_json, write_line
from mlbuffet.cli.server import Json, as_json, asks_server
from mlbuffet.cli.tables import progress_bar, write_table
from mlbuffet.client import Client

_image = click.option(
    "--image", type=Json(), help="How pixels become the input: JSON with scale, mean, std, labels; @file, or -."
)


@click.group()
def models() -> None:
    """Manage models; NAME is a model's, NAME:VERSION one version."""


@models.command("list")
@click.option("--limit", type=click.IntRange(min=1), help="How many at most.")
@click.option("--after", default="", help="Begin behind this name.")
@as_json
@asks_server
def list_models(client: Client, limit: int | None, after: str, *, as_json: bool) -> None:
    """List the models."""
    found = list(client.information(limit=limit, after=after))
    if as_json:
        write_json(found)
        return
    rows = [
        (
            model["model"],
            model["version"],
            len(model["versions"]),
            size(model["size_bytes"]),
            model["created"],
            model["description"].partition("\n")[0],
        )
        for model in found
    ]
    write_table(("model", "default", "versions", "size", "created", "description"), rows, clipped="description")


@models.command()
@click.argument("name")
@as_json
@asks_server
def show(client: Client, name: str, *, as_json: bool) -> None:
    """Show a model: inputs, outputs, versions, and its state on each modelhost."""
    model = client.show(name)
    if as_json:
        write_json(model)
    else:
        _write(model)


def _write(model: ModelDetails) -> None:
    write_line(f"{model['model']}:{model['version']}  {model['digest']}  {size(model['size_bytes'])}")
    run = model.get("run")
    made_by = f"made by run {run.get('run_id')}" if run else ""
    for line in filter(None, [model["description"], made_by, *model["notes"]]):
        write_line(line)
    tensors = [("input", *_tensor(spec)) for spec in model["inputs"]]
    tensors += [("output", *_tensor(spec)) for spec in model["outputs"]]
    write_line("")
    write_table(("", "name", "datatype", "shape"), tensors)
    versions = [
        (
            version["version"],
            _marks(version, model["default"]),
            size(version["size_bytes"]),
            version["created"],
            version["source"],
            version["digest"],
        )
        for version in model["versions"]
    ]
    write_line("")
    write_table(("version", "", "size", "created", "source", "digest"), versions)
    write_line("")
    _write_hosts(model)


def _write_hosts(model: ModelDetails | Loaded) -> None:
    hosts = [(host.get("modelhost"), host.get("state"), host.get("reason")) for host in model["modelhosts"]]
    write_table(("modelhost", f"state of version {model['version']}", ""), hosts)


def _tensor(spec: Tensor) -> tuple[str, str, str]:
    axes = ", ".join("any" if axis is None else str(axis) for axis in spec["shape"])
    return spec["name"], spec["datatype"], f"[{axes}]"


def _marks(version: Version, default: int) -> str:
    marks = {"default": version["version"] == default, "pinned": version["pinned"], "unloaded": version["unloaded"]}
    return " ".join(mark for mark, holds in marks.items() if holds)


@models.command()
@click.argument("name")
@click.argument("file", type=click.File("rb"))
@click.option("--description", help="What it is, for people.")
@_image
@click.option("--if-match", metavar="DIGEST", help="Only if the present default version has this digest; * for any.")
@click.option("--activate/--no-activate", default=True, help="Make it the default, or only a version to be asked for.")
@as_json
@asks_server
def push(  # noqa: PLR0913 - click gives each option an argument
    client: Client,
    name: str,
    file: IO[bytes],
    description: str | None,
    image: Any,  # noqa: ANN401 - JSON; the server says what is wrong with it
    if_match: str | None,
    *,
    activate: bool,
    as_json: bool,
) -> None:
    """Upload FILE, or - for standard input, as the new default version of a model."""
    options: dict[str, Any] = {"description": description, "image": image, "if_match": if_match, "activate": activate}
    with progress_bar(f"sending {name}", "checked and loaded by the server") as report:
        version = client.push(name, file, progress=report, **options)
    if as_json:
        write_json(version)
    else:
        state = "the default" if activate else "there"
        write_line(f"{name}: version {version['version']} is {state}, {version['digest']}")
        for note in version["notes"]:
            write_line(note)


@models.command()
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path), default=Path())
@as_json
@asks_server
def pull(client: Client, name: str, path: Path, *, as_json: bool) -> None:
    """Download a model's file to PATH, a file or a folder; without one to this folder."""
    with progress_bar(f"receiving {name}", "received") as report:
        pulled = client.pull(name, path, progress=report)
    if as_json:
        write_json(pulled)
    else:
        write_line(f"{pulled['path']}: version {pulled['version']}, {pulled['digest']}, {size(pulled['size_bytes'])}")


@models.command()
@click.argument("name")
@click.option("--description", help="What it is, for people.")
@_image
@click.option("--pin/--unpin", "pinned", default=None, help="Keep it loaded whether it is used or not.")
@as_json
@asks_server
def describe(
    client: Client,
    name: str,
    description: str | None,
    image: Any,  # noqa: ANN401 - JSON; the server says what is wrong with it
    *,
    pinned: bool | None,
    as_json: bool,
) -> None:
    """Change a version's description, image settings or pin."""
    if description is None and image is None and pinned is None:
        msg = "give --description, --image, --pin or --unpin"
        raise click.UsageError(msg)
    version = client.describe(name, description=description, image=image, pinned=pinned)
    if as_json:
        write_json(version)
    else:
        write_line(f"{version['model']}: version {version['version']} is described")


@models.command()
@click.argument("name")
@click.option("--to", "version", type=click.IntRange(min=1), help="That version; without it the one before.")
@as_json
@asks_server
def rollback(client: Client, name: str, version: int | None, *, as_json: bool) -> None:
    """Make another version the default: the highest below the present one, or the one that --to names."""
    default = client.rollback(name, version)
    if as_json:
        write_json({"model": name, "default": default})
    else:
        write_line(f"{name}: version {default} is the default")


@models.command()
@click.argument("name")
@as_json
@asks_server
def load(client: Client, name: str, *, as_json: bool) -> None:
    """Load a model on every modelhost; lifts a quarantine."""
    loaded = client.load(name)
    if as_json:
        write_json(loaded)
    else:
        _write_hosts(loaded)


@models.command()
@click.argument("name")
@as_json
@asks_server
def unload(client: Client, name: str, *, as_json: bool) -> None:
    """Take a model out of service and give its memory back, until it is loaded again."""
    version = client.unload(name)
    if as_json:
        write_json(version)
    else:
        write_line(f"{version['model']}: version {version['version']} is unloaded")


@models.command("rm")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@asks_server
def remove(client: Client, name: str, *, yes: bool, as_json: bool) -> None:
    """Delete a model with all its versions, or NAME:VERSION one of them. It asks first."""
    if not yes:
        what = "this version of it" if ":" in name else "all its versions"
        click.confirm(f"Delete {name}, {what}, for good?", abort=True, err=True)
    client.delete(name)
    if as_json:
        write_json({"deleted": name})
    else:
        write_line(f"{name} is deleted")
