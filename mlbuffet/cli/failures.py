"""How a command ends that cannot do what it was asked."""

from typing import IO, Any

import click

from mlbuffet.cli.output import printable


class Failure(click.ClickException):
    """One line for a person, and an exit status for a program."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click says ClassVar and reads the instance's

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the line to standard error."""
        click.echo(printable(self.message), file=file, err=True)
