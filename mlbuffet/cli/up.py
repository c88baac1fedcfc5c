"""`mlbuffet up`: the whole platform on this machine."""

import asyncio
import socket
from pathlib import Path

import click

from mlbuffet.cli.output import write_line


@click.command()
@click.option(
    "--port",
    default=8002,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Port of the inferrer on 127.0.0.1.",
)
@click.option(
    "--grpc-port",
    default=8001,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Its port for gRPC; 0 for none.",
)
@click.option("--modelhosts", default=2, show_default=True, type=click.IntRange(1, 64), help="How many modelhosts.")
@click.option(
    "--repository",
    default="repository",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Model repository folder.",
)
@click.option(
    "--samples",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Copy sample models into an empty repository.",
)
@click.option("--workers", default=0, type=click.IntRange(min=0), help="Inferrer processes; 0 for one per core.")
def up(port: int, grpc_port: int, modelhosts: int, repository: Path, samples: Path | None, workers: int) -> None:
    """Run the whole platform on this machine, until Ctrl-C or SIGTERM."""
    for number in filter(None, (port, grpc_port)):
        _check_port(number)
    try:
        from mlbuffet.local import Platform, import_services, run_platform  # noqa: PLC0415 - not always installed

        mains = import_services()
    except ImportError as error:
        msg = f"the services are not installed ({error.name} is missing): pip install 'mlbuffet[local]'"
        raise click.UsageError(msg) from error
    platform = Platform(port, grpc_port, modelhosts, repository, samples, workers, say=write_line)
    asyncio.run(run_platform(platform, mains))


def _check_port(port: int) -> None:
    """Say at once that a port is taken, instead of starting an inferrer again and again."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            msg = f"port {port} cannot be listened on: {error.strerror}"
            raise click.UsageError(msg) from error
