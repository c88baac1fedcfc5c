"""`mlbuffet runs …`: list, show, follow, cancel, repeat and remove training runs."""

import click

from mlbuffet.answers import Run
from mlbuffet.cli.following import elapsed_s, outcome, show_begun, write_log
from mlbuffet.cli.output import size, write_json, write_line
from mlbuffet.cli.server import as_json, asks_server
from mlbuffet.cli.tables import write_table
from mlbuffet.client import Client

_follow = click.option("--follow", is_flag=True, help="Go on until it ends.")


@click.group()
def runs() -> None:
    """Look at training runs and manage them; RUN is a run's id."""


@runs.command("list")
@click.option("--model", help="Only runs for this model.")
@click.option("--state", help="Only runs in this state: SCHEDULED, RUNNING, FINISHED, FAILED or KILLED.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at most.")
@as_json
@asks_server
def list_runs(client: Client, model: str | None, state: str | None, limit: int, *, as_json: bool) -> None:
    """List the runs, the newest first."""
    found = list(client.runs(model=model, state=state, limit=limit))
    if as_json:
        write_json(found)
        return
    rows = [
        (
            run["run_id"],
            run["model"],
            run["phase"] or run["state"],
            f"{elapsed_s(run):.0f} s" if run["started"] else "",
            run["model_version"] or "",
            run["reason"] or "",
        )
        for run in found
    ]
    write_table(("run", "model", "state", "took", "version", "reason"), rows)


@runs.command()
@click.argument("run_id", metavar="RUN")
@as_json
@asks_server
def show(client: Client, run_id: str, *, as_json: bool) -> None:
    """Show a run: how it ended, what went in, what it told."""
    run, metrics = client.run(run_id), client.run_metrics(run_id)
    if as_json:
        write_json({**run, "metrics": metrics})
        return
    write_line(outcome(run))
    write_line(f"for {run['model']}, by {run['who'] or 'anonymous'}, created {run['created']}")
    write_line("")
    write_table(("file", "size", "sha256"), _files(run))
    if run["parameters"]:
        write_line("")
        write_table(("parameter", "value"), run["parameters"].items())
    if metrics:
        write_line("")
        write_table(("metric", "step", "value"), [(it["name"], it["step"] or "", it["value"]) for it in metrics])
    write_line("")
    taken = run["resources"]
    write_line(f"{size(taken['max_memory_bytes'])} of memory, {taken['cpu_s']:.1f} s of processor time")


def _files(run: Run) -> list[tuple[str, str, str]]:
    inputs = run["inputs"]
    named = [("script", inputs["script"]), ("requirements", inputs["requirements"])]
    named += [(item["name"], item) for item in inputs["dataset"]]
    return [(name, size(item["size_bytes"]), item["sha256"]) for name, item in named]


@runs.command()
@click.argument("run_id", metavar="RUN")
@click.option("--offset", type=click.IntRange(min=0), default=0, help="Begin at this byte.")
@_follow
@asks_server
def logs(client: Client, run_id: str, offset: int, *, follow: bool) -> None:
    """Show what a run has printed."""
    for text in client.run_logs(run_id, offset=offset, follow=follow):
        write_log(text)


@runs.command()
@click.argument("run_id", metavar="RUN")
@as_json
@asks_server
def cancel(client: Client, run_id: str, *, as_json: bool) -> None:
    """Cancel a run."""
    run = client.cancel_run(run_id)
    if as_json:
        write_json(run)
    else:
        write_line(f"{run_id} is cancelled")


@runs.command()
@click.argument("run_id", metavar="RUN")
@_follow
@as_json
@asks_server
def retry(client: Client, run_id: str, *, follow: bool, as_json: bool) -> None:
    """Run the same inputs again, as a new run."""
    show_begun(client, client.retry_run(run_id), follow=follow, as_json=as_json)


@runs.command("rm")
@click.argument("run_id", metavar="RUN")
@as_json
@asks_server
def remove(client: Client, run_id: str, *, as_json: bool) -> None:
    """Remove a run that has ended, with its files and log; a model that it made stays."""
    client.delete_run(run_id)
    if as_json:
        write_json({"deleted": run_id})
    else:
        write_line(f"{run_id} is deleted")
