"""`mlbuffet predict`: one prediction, by values or by image."""

import json
from pathlib import Path

import click

from mlbuffet.answers import Prediction
from mlbuffet.cli.output import write_json
from mlbuffet.cli.server import Json, as_json, asks_server
from mlbuffet.cli.tables import write_table
from mlbuffet.client import Client


@click.command()
@click.argument("name")
@click.option("--values", type=Json(), help="JSON text, @file.json, or - for standard input.")
@click.option("--image", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A picture.")
@click.option("--outputs", help="'all', or names of outputs with commas between; without it the first.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.001, 3600), help="Seconds that it may take.")
@as_json
@asks_server
def predict(  # noqa: PLR0913 - click gives each option an argument
    client: Client,
    name: str,
    values: object,
    image: Path | None,
    outputs: str | None,
    timeout_s: float | None,
    *,
    as_json: bool,
) -> None:
    """Predict with the model NAME, or with NAME:VERSION.

    \b
      mlbuffet predict iris.onnx --values '[[5.1, 3.5, 1.4, 0.2]]'
      mlbuffet predict digits.onnx --image seven.png --outputs all
    """  # noqa: D301 - click's mark for lines that are kept
    if (values is None) == (image is None):
        msg = "give either --values or --image"
        raise click.UsageError(msg)
    wanted = outputs if outputs in {None, "all"} else outputs.split(",")
    if image is not None:
        prediction = client.predict_image(name, image, outputs=wanted, timeout_s=timeout_s)
    else:
        prediction = client.predict(name, values, outputs=wanted, timeout_s=timeout_s)
    if as_json:
        write_json(prediction)
    else:
        _write(prediction)


def _write(prediction: Prediction) -> None:
    """One row for each observation, one column for each output."""
    columns = dict(prediction.get("outputs") or {"values": prediction["values"]})
    if "labels" in prediction:
        columns["label of the first"] = prediction["labels"]
    lists = [column if isinstance(column, list) else [column] for column in columns.values()]
    length = max(map(len, lists), default=0)
    cells = [[_cell(item) for item in column] + [""] * (length - len(column)) for column in lists]
    write_table(list(columns), zip(*cells, strict=True))


def _cell(item: object) -> str:
    return item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
