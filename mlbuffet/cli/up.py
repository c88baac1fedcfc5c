"""`mlbuffet up`: the whole platform on this machine."""

import asyncio
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlbuffet.cli.output import write_line

if TYPE_CHECKING:
    from mlbuffet.layout import Training


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address that the inferrer listens on; beyond loopback only where there are API keys.",
)
@click.option(
    "--port",
    default=8002,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Port of the inferrer.",
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
@click.option(
    "--metrics-port",
    default=9091,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Port of Prometheus, on loopback, where it is installed.",
)
@click.option(
    "--metrics-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File of an API key with the scope models:read, where there are keys: Prometheus asks with it.",
)
@click.option("--metrics/--no-metrics", default=True, help="Whether to start Prometheus.")
@click.option(
    "--runs",
    default="training",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for training runs.",
)
@click.option(
    "--allow-unisolated-training",
    "unisolated",
    is_flag=True,
    help="Without a Docker engine: run training scripts as child processes, which may do whatever you may. "
    "Loopback only.",
)
def up(  # noqa: PLR0913 - click gives each option an argument
    host: str,
    port: int,
    grpc_port: int,
    modelhosts: int,
    repository: Path,
    samples: Path | None,
    workers: int,
    metrics_port: int,
    metrics_key: Path | None,
    runs: Path,
    *,
    metrics: bool,
    unisolated: bool,
) -> None:
    """Run the whole platform on this machine, until Ctrl-C or SIGTERM.

    Training scripts run on the machine's Docker engine (DOCKER_HOST, else /var/run/docker.sock) if one answers.
    """
    for number in filter(None, (port, grpc_port)):
        _check_port(host, number)
    try:
        # Not always installed.
        from mlbuffet.layout import Platform  # noqa: PLC0415
        from mlbuffet.local import check_reach, import_services, run_platform  # noqa: PLC0415
        from mlbuffet.watching import Watch  # noqa: PLC0415

        training = _training(host, runs, unisolated=unisolated)
        mains = import_services(training=training is not None)
    except ImportError as error:
        msg = f"the services are not installed ({error.name} is missing): pip install 'mlbuffet[local]'"
        raise click.UsageError(msg) from error
    watch = Watch(repository.with_name(f"{repository.name}.metrics"), metrics_port, metrics_key) if metrics else None
    platform = Platform(
        port,
        grpc_port,
        modelhosts,
        repository,
        samples,
        workers,
        say=write_line,
        host=host,
        watch=watch,
        training=training,
    )
    try:
        check_reach(platform)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    asyncio.run(run_platform(platform, mains))


def _training(host: str, runs: Path, *, unisolated: bool) -> "Training | None":
    """Where scripts run; None where nowhere."""
    from mlbuffet.endpoints import is_loopback  # noqa: PLC0415 - not always installed
    from mlbuffet.engines import answers, local_engine  # noqa: PLC0415 - not needed for help
    from mlbuffet.layout import Training  # noqa: PLC0415 - as above

    if unisolated and not is_loopback(host):
        msg = f"--allow-unisolated-training is for loopback only; --host is {host!r}"
        raise click.UsageError(msg)
    try:
        address, certificates = local_engine(os.environ)
    except ValueError as error:
        write_line(f"no training on DOCKER_HOST: {error}")
    else:
        if answers(address):
            return Training(address, certificates, runs)
    return Training(folder=runs) if unisolated else None


def _check_port(host: str, port: int) -> None:
    """Say at once that a port is taken, instead of starting an inferrer again and again."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            msg = f"port {port} cannot be listened on: {error.strerror}"
            raise click.UsageError(msg) from error
