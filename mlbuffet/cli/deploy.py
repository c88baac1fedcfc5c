"""`mlbuffet deploy …`: the platform on a Docker Swarm, from building the images to taking all of it away."""

import ssl
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlbuffet.cli.failures import Failure
from mlbuffet.cli.output import write_line
from mlbuffet.deploying import names
from mlbuffet.deploying.baseimage import make_base_image
from mlbuffet.deploying.deployment import Deployment
from mlbuffet.deploying.engine import Engine, EngineError

if TYPE_CHECKING:
    from mlbuffet.deploying.preparation import Preparation

_BASE = "python:3.11-slim-bookworm"
_FILES = (Path("deploy/stack.yaml"),)
_TLS = Path("deploy/tls.yaml")

_tag = click.option("--tag", envvar="MLBUFFET_TAG", show_envvar=True, help="The images' tag; version and commit here.")
_folder = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: Path(click.get_app_dir("mlbuffet")) / names.STACK,
    show_default="~/.config/mlbuffet/mlbuffet",
    help="Where the authority's key is kept; nowhere else is it.",
)
_base = click.option("--base", default=_BASE, show_default=True, help="Image with Python to build upon.")


class _Deploying(click.Group):
    """Commands whose failures are the engine's: said in its words."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except EngineError as error:
            raise Failure(str(error), 1) from error


@click.group(cls=_Deploying)
@click.option(
    "--timeout", default=300.0, show_default=True, type=click.FloatRange(min=1), help="Seconds for a service."
)
@click.pass_context
def deploy(ctx: click.Context, timeout: float) -> None:
    """Put the platform on a Docker Swarm, from the repository's folder and on a manager.

    Each command shows the docker commands that it runs, waits until the services are what they are to be, and may be
    given twice. deploy/README.md is the runbook.
    """
    engine = Engine(write_line)
    ctx.obj = Deployment(engine, write_line, timeout)
    ctx.meta["engine"] = engine


def _engine() -> Engine:
    """The engine, spoken to in a version that it knows."""
    engine: Engine = click.get_current_context().meta["engine"]
    engine.meet()
    return engine


@deploy.command()
@click.option("--name", default=_BASE, show_default=True, help="What the image is called.")
@click.option("--suite", default="bookworm", show_default=True, help="Debian's release.")
def base(name: str, suite: str) -> None:
    """Make a base image from Debian's packages, without a registry (as root)."""
    make_base_image(_engine(), name, suite)


@deploy.command()
@_tag
@_base
@click.pass_obj
def build(deployment: Deployment, tag: str | None, base: str) -> None:
    """Build the images."""
    _engine()
    deployment.build(tag or _own_tag(), base=base, version=version("mlbuffet"), commit=_commit())


@deploy.command()
@_folder
@click.option("--address", default="", help="This node's, where the Swarm is to be made and it has several.")
@click.option("--encrypted", is_flag=True, help="Encrypt the network, where the kernel can.")
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the first API key to this file, as for --key-file.",
)
def init(folder: Path, address: str, to: Path | None, *, encrypted: bool) -> None:
    """Prepare the Swarm: network, label of this node, certificates, keys. The first API key is shown once."""
    preparation = _preparation(folder)
    preparation.join_swarm(address)
    preparation.make_network(encrypted=encrypted)
    key, password = preparation.make_secrets()
    if key and to is not None:
        from mlbuffet.deploying.credentials import write_own  # noqa: PLC0415 - installed, since there is a key

        write_own(to, f"{key}\n".encode())
        write_line(f"the first API key, for an administrator, is in {to}")
    elif key:
        write_line(f"the first API key, for an administrator, shown this once: {key}")
    if password:
        write_line(f"the metrics at port 9091, shown this once: user metrics, password {password}")
    write_line(f"prepared; keep {folder} safe: with it certificates are renewed")


@deploy.command()
@_tag
@click.option("--edge", is_flag=True, help="Replace the edge too, which cuts connections: see the runbook.")
@click.option("--tls/--no-tls", default=None, help="Serve TLS, with the edge's certificate; else as it is now.")
@click.option(
    "--engines", metavar="LIST", help="Engines that run training, each tcp://ADDRESS:2376=SLOTS; else as now."
)
@click.pass_obj
def up(deployment: Deployment, tag: str | None, engines: str | None, *, edge: bool, tls: bool | None) -> None:
    """Bring all services to what deploy/stack.yaml says."""
    _engine()
    secure = deployment.speaks_tls() if tls is None else tls
    deployment.up([*_FILES, *([_TLS] if secure else [])], tag or _own_tag(), engines=engines, edge=edge)


@deploy.command()
@_folder
@click.argument("addresses", metavar="[ADDRESS]...", nargs=-1)
@click.option(
    "--to", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", required=True, help="Where to write."
)
def engine(folder: Path, addresses: tuple[str, ...], to: Path) -> None:
    """Make what an engine needs to run training: a certificate for its ADDRESSes, and its configuration.

    The first address is where it is to listen; without any, it is this node's, where tasks reach their host.
    """
    preparation = _preparation(folder)
    from mlbuffet.deploying.remote import engine_files, instructions, write_engine_files  # noqa: PLC0415 - as in `init`

    wanted = addresses or (preparation.gateway(),)
    write_engine_files(to, engine_files(*preparation.engine_certificate(wanted), wanted[0]))
    for line in instructions(to, wanted):
        write_line(line)


@deploy.command()
@click.argument("wanted", metavar="SERVICE=N", nargs=-1, required=True)
@click.pass_obj
def scale(deployment: Deployment, wanted: tuple[str, ...]) -> None:
    """Have N tasks of a service: inferrer or modelhost."""
    numbers: dict[str, int] = {}
    for word in wanted:
        name, _, number = word.partition("=")
        if name not in names.SCALED or not number.isdecimal():
            msg = f"SERVICE=N, where SERVICE is {' or '.join(names.SCALED)}; received {word!r}"
            raise click.UsageError(msg)
        numbers[name] = int(number)
    _engine()
    for name, replicas in numbers.items():
        deployment.scale(name, replicas)


@deploy.command()
@_folder
@click.pass_obj
def status(deployment: Deployment, folder: Path) -> None:
    """Show services, what failed of late, and until when certificates are good."""
    preparation = _preparation(folder)
    for line in deployment.describe():
        write_line(line)
    for name, day in preparation.expiry().items():
        write_line(f"{name}: good until {day}")


@deploy.command()
@click.option("--tag", envvar="MLBUFFET_TAG", show_envvar=True, required=True, help="The images' new tag.")
@click.option("--edge", is_flag=True, help="The edge too, which cuts connections: see the runbook.")
@click.pass_obj
def update(deployment: Deployment, tag: str, *, edge: bool) -> None:
    """Replace the services by those of another tag, one after the other; all go back if one does not come."""
    _engine()
    deployment.update(_but_edge() | ({"edge"} if edge else set()), tag)


@deploy.command()
@click.option("--edge", is_flag=True, help="The edge too, which cuts connections: see the runbook.")
@click.pass_obj
def rollback(deployment: Deployment, *, edge: bool) -> None:
    """Replace the services by those before the last update."""
    _engine()
    deployment.rollback(_but_edge() | ({"edge"} if edge else set()))


@deploy.command()
@click.option("--everything", is_flag=True, help="Secrets, network, and this node's volumes WITH ALL MODELS, too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def down(deployment: Deployment, *, everything: bool, yes: bool) -> None:
    """Take the services away; models, keys and certificates stay."""
    _engine()
    if everything and not yes:
        click.confirm("All models, API keys and certificates of this Swarm are lost. Go on?", abort=True)
    deployment.down()
    if everything:
        deployment.remove_everything()


@deploy.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def backup(deployment: Deployment, file: Path) -> None:
    """Copy the repository into FILE, on its node, while everything goes on; API keys are in it, as hashes."""
    _engine()
    deployment.backup(file)


@deploy.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.pass_obj
def restore(deployment: Deployment, file: Path) -> None:
    """Put a copy back, on the repository's node and with no inferrer running."""
    _engine()
    deployment.restore(file)


@deploy.group()
def certificates() -> None:
    """Manage the certificates: those between the services, and the edge's."""


@certificates.command()
@_folder
@click.pass_obj
def renew(deployment: Deployment, folder: Path) -> None:
    """Make new certificates between the services, and replace the services' tasks one by one."""
    preparation = _preparation(folder)
    generation = preparation.renew_certificates()
    deployment.replace_certificates(generation)
    preparation.forget_certificates(generation)


@certificates.command("edge")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.pass_obj
def put_edge(deployment: Deployment, file: Path) -> None:
    """Give the edge the certificate chain and key in FILE, new or renewed, on its node; nothing is replaced for it."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file)
    except (ssl.SSLError, OSError) as error:
        msg = f"{file} does not hold a certificate chain and its key: {error.strerror or error}"
        raise click.UsageError(msg) from error
    _engine()
    deployment.put_certificate(file)


def _preparation(folder: Path) -> "Preparation":
    """What makes and knows certificates; the help is shown without it."""
    try:
        from mlbuffet.deploying.credentials import Folder  # noqa: PLC0415 - not always installed
        from mlbuffet.deploying.preparation import Preparation  # noqa: PLC0415 - likewise
    except ImportError as error:
        msg = f"what this needs is not installed ({error.name} is missing): pip install 'mlbuffet[deploy]'"
        raise click.UsageError(msg) from error
    return Preparation(_engine(), Folder(folder), datetime.now(UTC))


def _but_edge() -> set[str]:
    return set(names.SERVICES) - {"edge"}


def _own_tag() -> str:
    """Version and commit of what lies in this folder."""
    commit = _commit()
    return f"{version('mlbuffet')}-{commit[:7]}" if commit else version("mlbuffet")


def _commit() -> str:
    """The commit that is checked out here; empty outside of a repository."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
