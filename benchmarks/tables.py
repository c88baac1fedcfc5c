"""The report of `predict`: results as plain data, and as Markdown."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.contenders import Contender
from benchmarks.measuring import QUANTITIES, Cell, Results, Row
from benchmarks.report import Spread, facts, table

_VERDICTS = {True: "yes", False: "**no**", None: "not measured"}


def summarise(rows: Iterable[Row], contenders: Sequence[Contender], results: Results) -> list[dict[str, Any]]:
    """Medians and spreads of each cell; a reason where there are none."""
    cells: list[dict[str, Any]] = []
    for row in rows:
        for connections in row.connections:
            for contender in contenders:
                cell = Cell(row.name, contender.key, connections)
                found = {quantity: results.series(cell, quantity) for quantity in QUANTITIES}
                seen = {quantity: Spread.of(values) for quantity, values in found.items() if values}
                if seen:
                    who = {"row": row.name, "connections": connections, "contender": contender.key}
                    cells.append({**who, **seen})
        cells += [
            {"row": row.name, "contender": contender.key, "missing": results.missing[contender.key, row.name]}
            for contender in contenders
            if (contender.key, row.name) in results.missing
        ]
    return cells


def summarise_bare(results: Results) -> dict[str, dict[str, Any]]:
    """The loop without a server, by workload."""
    return {
        name: {
            "rows_per_second": Spread.of([run.per_second for run in runs]),
            "cpu_us_per_row": Spread.of([run.cpu_us for run in runs]),
            "ways": sorted({f"{run.processes} processes of {run.threads} threads" for run in runs}),
        }
        for name, runs in results.bare.items()
    }


def render(data: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    names = {key: about["name"] for key, about in data["contenders"].items()}
    text = f"""\
# Predictions a second

One row a request, a closed loop by wrk over keep-alive connections, one model loaded in each server. Medians (smallest
to largest) of {data["rounds"]} rounds in turn, each server started afresh, {data["seconds"]} s or longer each; made in
{data["minutes"]} minutes by `{data["command"]}`.

The load generator and the servers share the {data["machine"]["cores"]} cores: a faster server makes wrk work more too.
CPU counts all processes of the server, not wrk; PSS is the sum over them. [README](../README.md) says how each server
is run.

## Targets

{_targets(data["targets"])}

![Requests a second]({data["name"]}.svg)

"""
    text += "".join(f"## {row}\n\n{_row(cells, names)}\n\n" for row, cells in _by_row(data["cells"]).items())
    text += f"## Without a server\n\nThe bare onnxruntime loop on all cores.\n\n{_bare(data['bare'])}\n\n"
    text += "## Who and where\n\n"
    text += "".join(f"- {about['name']}: {about['what']}\n" for about in data["contenders"].values())
    versions = {about["name"]: about["versions"] for about in data["contenders"].values()}
    return text + facts(data["machine"], versions) + "\n"


def _targets(verdicts: Iterable[Mapping[str, Any]]) -> str:
    lines = [[item["figure"], item["target"], _spread(item["measured"]), _VERDICTS[item["met"]]] for item in verdicts]
    return table(["figure", "target", "measured", "met"], lines)


def _spread(measured: Mapping[str, float] | None) -> str:
    return "" if measured is None else str(Spread(**measured))


def _by_row(cells: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for cell in cells:
        rows[cell["row"]].append(cell)
    return rows


def _row(cells: Iterable[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    head = ["connections", "who", "requests/s", "p50 ms", "p99 ms", "CPU µs/request", "PSS MiB"]
    lines: list[list[object]] = []
    for cell in cells:
        if "missing" in cell:
            lines.append(["", names[cell["contender"]], cell["missing"], "", "", "", ""])
        else:
            seen = [cell[quantity] for quantity in QUANTITIES]
            lines.append([cell["connections"], names[cell["contender"]], *seen])
    return table(head, lines)


def _bare(runs: Mapping[str, Mapping[str, Any]]) -> str:
    seen = ("rows_per_second", "cpu_us_per_row")
    lines = [[name, *(run[quantity] for quantity in seen), "; ".join(run["ways"])] for name, run in runs.items()]
    return table(["model", "rows/s", "CPU µs/row", "faster way"], lines)
