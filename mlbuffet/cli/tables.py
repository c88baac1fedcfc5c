"""Tables and progress bars for people: the only import of rich, which `mlbuffet up` does without."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from mlbuffet.cli.output import printable
from mlbuffet.transfer import Progress as Report

_WIDE = 10_000


def write_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, clipped: str = "") -> None:
    """A table as wide as the terminal, which clips one column; one row a line where the output is no terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        texts = {column: Text(printable(str(cell))) for column, cell in zip(columns, row, strict=True)}
        if clipped:
            texts[clipped].no_wrap, texts[clipped].overflow = True, "ellipsis"
        table.add_row(*texts.values())
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


@contextmanager
def progress_bar(doing: str, done: str) -> Iterator[Report]:
    """A bar on standard error if that is a terminal; gives what is to be called with bytes done and in all."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        task = bars.add_task(doing, total=None)
        yield lambda now, total: bars.update(
            task, completed=now, total=total, description=doing if now < total else done
        )
