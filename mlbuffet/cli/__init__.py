"""`mlbuffet …`: the command line. This module is its entry and says how it ends."""

import errno
import importlib
from typing import Any

import click

from mlbuffet.cli.failures import Failure
from mlbuffet.cli.output import write_anything
from mlbuffet.errors import ConnectionFailedError, MLBuffetError

_REFUSED, _UNUSABLE, _UNREACHABLE = 1, 2, 3


_COMMANDS = ["deploy", "keys", "models", "predict", "runs", "train", "up"]  # each in the module of its name


class _Commands(click.Group):
    """Commands whose foreseeable failures end in one line and an exit status, never in a traceback.

    A command is imported when it is asked for: `up` keeps no HTTP client in the memory of a whole platform.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Name them, as help shows them."""
        return _COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one; none where there is no such."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"mlbuffet.cli.{cmd_name}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run the command."""
        write_anything()
        try:
            return super().invoke(ctx)
        except MLBuffetError as error:
            request_id = getattr(error, "request_id", None)
            message = f"{error.code}: {error.message}" + (f" (request id {request_id})" if request_id else "")
            raise Failure(message, _UNREACHABLE if isinstance(error, ConnectionFailedError) else _REFUSED) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever read our output has enough: click ends quietly
            message = f"{error.filename or 'input or output'}: {error.strerror or error}"
            raise Failure(message, _UNUSABLE) from error
        except UnicodeEncodeError as error:
            message = f"an argument is not UTF-8: {error.object[:80]!a}"
            raise Failure(message, _UNUSABLE) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mlbuffet", message="%(prog)s %(version)s")
def main() -> None:
    """Serve models: start the platform, manage models and API keys, predict, train.

    Commands that ask a server take --url (or MLBUFFET_URL), --key-file (or MLBUFFET_KEY_FILE) and --json, which
    writes JSON to standard output and nothing else.

    \b
    Exit status:
      0  done
      1  refused: by the server, with its code on standard error, or by you when asked; a run that did not finish
      2  usage: an option, file or JSON text that cannot be used
      3  no server answers at the address
    """  # noqa: D301 - click's mark for lines that are kept
