"""Draws the figures of `predict`: `draw.py predict.json predict.svg` (or .png)."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_CONNECTIONS = 32
_OURS, _THEIRS, _LOOP = "#0b6e4f", "#9aa5b1", "#d08c00"
_TITLES = {
    "iris JSON": "iris, 4 floats, JSON",
    "mlp JSON": "MLP, 784 floats, JSON",
    "mlp binary": "MLP, 784 floats, binary",
    "image binary": "MobileNetV2, 1x3x224x224, binary",
    "reduce binary": "reduction, 3 MiB, binary",
    "reduce JSON": "reduction, 3 MiB, JSON",
}


def draw(data: dict[str, Any], path: Path) -> None:
    """A panel for each row: requests a second, on a logarithmic axis."""
    names = {key: about["name"] for key, about in data["contenders"].items()}
    rows = list(dict.fromkeys(cell["row"] for cell in data["cells"]))
    columns = min(len(rows), 3)
    lines = -(-len(rows) // columns)
    size = (4.6 * columns, 3.1 * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(rows) :]:
        axis.set_visible(False)
    for row, axis in zip(rows, axes.flat, strict=False):
        cells = [cell for cell in data["cells"] if cell["row"] == row]
        _panel(axis, row, cells, names)
        loop = data["bare"].get(row.split()[0])
        if loop:
            axis.axvline(loop["rows_per_second"]["median"], color=_LOOP, linestyle="--", linewidth=1)
    machine = data["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, commit {machine['commit']}"
    figure.suptitle(f"Requests a second (dashed, where in view: the bare onnxruntime loop); {where}", fontsize=10)
    mpl.rcParams.update({"svg.hashsalt": "predict", "svg.fonttype": "none"})  # the same data, the same small file
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(axis: Axes, row: str, cells: list[dict[str, Any]], names: dict[str, str]) -> None:
    measured = [cell for cell in cells if "missing" not in cell]
    most = max((cell["connections"] for cell in measured), default=0)
    connections = _CONNECTIONS if any(cell["connections"] == _CONNECTIONS for cell in measured) else most
    shown = {cell["contender"]: cell["requests_per_second"] for cell in measured if cell["connections"] == connections}
    keys = list(reversed([key for key in names if any(cell["contender"] == key for cell in cells)]))
    axis.set_title(f"{_TITLES.get(row, row)}; {connections} connections", fontsize=9)
    axis.set_xscale("log")
    axis.set_yticks(range(len(keys)), [names[key] for key in keys], fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    for place, key in enumerate(keys):
        if key not in shown:
            axis.annotate("  not measured", (0, place), xycoords=("axes fraction", "data"), va="center", fontsize=7)
            continue
        rate = shown[key]
        error = [[rate["median"] - rate["smallest"]], [rate["largest"] - rate["median"]]]
        colour = _OURS if key == "ours" else _THEIRS
        axis.barh(place, rate["median"], xerr=error, color=colour, error_kw={"elinewidth": 0.8})
        text = f" {rate['median']:,.0f}" if rate["median"] >= 10 else f" {rate['median']:.1f}"  # noqa: PLR2004
        axis.annotate(text, (rate["largest"], place), va="center", fontsize=7)
    axis.set_ylim(-0.6, len(keys) - 0.4)
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.minorticks_off()
    if shown:
        rates = [rate["median"] for rate in shown.values()]
        axis.set_xlim(min(rates) / 3, max(rates) * 4)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
