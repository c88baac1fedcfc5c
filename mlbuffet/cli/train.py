"""`mlbuffet train`: have a script train a model."""

import json
from pathlib import Path

import click

from mlbuffet.cli.following import show_begun
from mlbuffet.cli.server import as_json, asks_server
from mlbuffet.client import Client

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


class Parameter(click.ParamType[tuple[str, object]]):
    """`NAME=VALUE`, where a value that JSON knows as a number, true or false is one, and any other a text."""

    name = "name=value"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str | float | bool]:
        """Read one."""
        name, equals, text = value.partition("=")
        if not name or not equals:
            self.fail(f"a parameter reads NAME=VALUE; received {value!r}", param, ctx)
        try:
            read = json.loads(text)
        except (ValueError, RecursionError):
            return name, text
        return name, read if isinstance(read, bool | int | float) and read == read else text  # noqa: PLR0124 - NaN


@click.command()
@click.argument("name")
@click.option("--script", required=True, type=_file, help="The Python file that trains it.")
@click.option("--requirements", required=True, type=_file, help="What it needs installed: pip's requirements file.")
@click.option("--dataset", required=True, multiple=True, type=_file, help="What it learns from; several times.")
@click.option(
    "--param", "parameters", multiple=True, type=Parameter(), help="A parameter of the script; several times."
)
@click.option("--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), help="Seconds that it may take.")
@click.option("--memory", "memory_bytes", type=click.IntRange(1), help="Bytes of memory that it may take.")
@click.option("--cpus", type=click.FloatRange(0, min_open=True), help="Processor cores that it may take.")
@click.option("--description", help="What the model is, for people.")
@click.option("--activate/--no-activate", default=True, help="Make it the default, or only a version to be asked for.")
@click.option("--retries", type=click.IntRange(0, 1), default=0, help="1: once more if it is interrupted.")
@click.option("--follow", is_flag=True, help="Show what it prints until it ends; 0 only if it finishes.")
@as_json
@asks_server
def train(  # noqa: PLR0913 - click gives each option an argument
    client: Client,
    name: str,
    script: Path,
    requirements: Path,
    dataset: tuple[Path, ...],
    parameters: tuple[tuple[str, str | float | bool], ...],
    timeout_s: float | None,
    memory_bytes: int | None,
    cpus: float | None,
    description: str | None,
    retries: int,
    *,
    activate: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Train a model: a script is run on a dataset, and what it writes becomes a version of NAME."""
    run = client.train(
        name,
        script=script,
        requirements=requirements,
        dataset=dataset,
        parameters=dict(parameters),
        timeout_s=timeout_s,
        memory_bytes=memory_bytes,
        cpus=cpus,
        description=description,
        activate=activate,
        retries=retries,
    )
    show_begun(client, run, follow=follow, as_json=as_json)
