"""Watching a training run: what it prints on standard output, where it stands on standard error, how it ended."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click

from mlbuffet.answers import Run
from mlbuffet.cli.failures import Failure
from mlbuffet.cli.output import printable, write_json
from mlbuffet.client import Client
from mlbuffet.errors import MLBuffetError

_LOOK_S = 1.0
_FINISHED = "FINISHED"


def write_log(text: str, *, err: bool = False) -> None:
    """A piece of a log: a program's output, which must not steer this terminal; lines and tabs are kept."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    click.echo("\t".join(map(printable, lines.split("\t"))), nl=False, err=err)


def show_begun(client: Client, run: Run, *, follow: bool, as_json: bool) -> None:
    """Show a run that was begun just now; with `follow` until it has ended.

    Raises:
        Failure: it was followed, and has not finished.
    """
    if follow:
        with client.another() as other:
            _follow(client, other, run, as_json=as_json)
    elif as_json:
        write_json(run)
    else:
        click.echo(printable(f"{run['run_id']} is {run['state']}; mlbuffet runs logs {run['run_id']} --follow"))


def _follow(client: Client, other: Client, run: Run, *, as_json: bool) -> None:
    """Show a run until it has ended; `other` is a client for looking at it meanwhile.

    Raises:
        Failure: it has not finished.
    """
    run_id = run["run_id"]
    try:
        with _watched(other, run_id):
            for text in client.run_logs(run_id, follow=True):
                write_log(text, err=as_json)
    except KeyboardInterrupt:
        _tell(f"{run_id} goes on; mlbuffet runs cancel {run_id} ends it")
        raise
    ended = client.run(run_id)
    if as_json:
        write_json(ended)
    if ended["state"] != _FINISHED:
        raise Failure(outcome(ended), 1)
    _tell(outcome(ended))


def outcome(run: Run) -> str:
    """How a run has ended, in a line."""
    took = f" after {elapsed_s(run):.1f} s" if run["started"] else ""
    if run["state"] == _FINISHED:
        return f"{run['run_id']} FINISHED{took}: {run['model']} version {run['model_version']}"
    why = f": {run['reason']}: {run['message']}" if run["reason"] else ""
    return f"{run['run_id']} {run['state']}{took}{why}"


def elapsed_s(run: Run) -> float:
    """How long a run has been running, or ran."""
    if not run["started"]:
        return 0.0
    end = datetime.fromisoformat(run["ended"]) if run["ended"] else datetime.now(UTC)
    return max((end - datetime.fromisoformat(run["started"])).total_seconds(), 0.0)


@contextmanager
def _watched(client: Client, run_id: str) -> Iterator[None]:
    """Tell whenever a run moves on, beside what it prints."""
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(client, run_id, ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _watch(client: Client, run_id: str, ended: threading.Event) -> None:
    told = ""
    began = time.monotonic()
    while not ended.wait(_LOOK_S if told else 0):
        try:
            run = client.run(run_id)
        except MLBuffetError:
            continue  # whoever follows the log says so, if it lasts
        state = " ".join(filter(None, (run["state"], run["phase"])))
        if state != told and not run["ended"]:
            told = state
            _tell(f"{run_id} {state} after {time.monotonic() - began:.1f} s")


def _tell(text: str) -> None:
    sys.stdout.flush()
    click.echo(printable(text), err=True)
