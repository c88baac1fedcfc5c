"""Every docker command that changes something or asks for something, as data. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mlbuffet.deploying.names import (
    NETWORK,
    PREVIOUS_LABEL,
    REPOSITORY_LABEL,
    STACK,
    SUBNET,
    certificates_of,
    full_name,
    image,
    is_certificate,
    suffix,
)

Command = tuple[str, ...]

_JSON = "--format={{json .}}"
_USER = "10001"  # that every image runs as
_CONFINED: Command = (
    *("docker", "run", "--rm", "--interactive", "--network=none"),
    *("--read-only", "--cap-drop=ALL", f"--user={_USER}"),
)
_BUILDS: Mapping[str, Command] = {
    "inferrer": ("--file=deploy/Dockerfile", "--target=inferrer", "--build-arg=SERVICE=inferrer"),
    "modelhost": ("--file=deploy/Dockerfile", "--target=modelhost", "--build-arg=SERVICE=modelhost"),
    "trainer": ("--file=deploy/Dockerfile", "--target=trainer", "--build-arg=SERVICE=trainer"),
    "metrics": ("--file=metrics/Dockerfile",),
    "edge": ("--file=deploy/edge/Dockerfile",),
}

# Asking -------------------------------------------------------------------------------------------------------------

VERSIONS: Command = ("docker", "version", _JSON)
SWARM: Command = ("docker", "info", "--format={{json .Swarm}}")
NODES: Command = ("docker", "node", "ls", _JSON)
SECRETS: Command = ("docker", "secret", "ls", "--format={{.Name}}")
NETWORKS: Command = ("docker", "network", "ls", "--format={{.Name}}")
VOLUMES: Command = ("docker", "volume", "ls", "--format={{.Name}}")
SERVICES: Command = (
    "docker",
    "service",
    "ls",
    f"--filter=label=com.docker.stack.namespace={STACK}",
    "--format={{.Name}}",
)
CONTAINERS: Command = (
    "docker",
    "ps",
    "--all",
    "--quiet",
    f"--filter=label=com.docker.stack.namespace={STACK}",
)


def inspect(kind: str, names: Iterable[str]) -> Command:
    """What the engine knows of services, secrets, networks or images."""
    return ("docker", kind, "inspect", *names)


def list_tasks(service: str) -> Command:
    """Every task of a service, those that ended too."""
    return ("docker", "service", "ps", "--no-trunc", _JSON, full_name(service))


# Images -------------------------------------------------------------------------------------------------------------


def build_image(name: str, *, tag: str, base: str, version: str, commit: str) -> Command:
    """Build one image from the repository's folder; by the host's network, since it only fetches packages."""
    labels = {"title": "MLBuffet", "licenses": "Apache-2.0", "version": version, "revision": commit}
    given = [f"--label=org.opencontainers.image.{key}={value}" for key, value in labels.items() if value]
    based = (*_BUILDS[name], f"--build-arg=BASE={base}")
    return ("docker", "build", "--network=host", *based, *given, f"--tag={image(name, tag)}", ".")


def bootstrap(folder: Path, suite: str) -> Command:
    """Unpack a small Debian with Python, from Debian's packages."""
    packages = "--include=python3,python3-venv,python3-pip,ca-certificates"
    return ("debootstrap", "--variant=minbase", packages, suite, str(folder))


def trust_certificates(folder: Path) -> Command:
    """Have it trust what lies in its folder of local certificates."""
    return ("chroot", str(folder), "update-ca-certificates")


def pack(folder: Path) -> Command:
    """It as an archive on standard output, without what only its package manager wants."""
    leave_out = ("./var/cache/apt/archives/*.deb", "./var/lib/apt/lists/*_*")
    return ("tar", f"--directory={folder}", *(f"--exclude={pattern}" for pattern in leave_out), "--create", ".")


def import_image(name: str) -> Command:
    """Make an image of an archive on standard input."""
    change = "--change=ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt"
    return ("docker", "import", change, "-", name)


# Swarm --------------------------------------------------------------------------------------------------------------


def init_swarm(address: str) -> Command:
    """Make this engine a Swarm of one; others reach it at `address`, which one with one network card finds itself."""
    return ("docker", "swarm", "init", *([f"--advertise-addr={address}"] if address else []))


def label_node(node: str) -> Command:
    """Make a node the repository's."""
    return ("docker", "node", "update", f"--label-add={REPOSITORY_LABEL}=true", node)


def create_network(*, encrypted: bool) -> Command:
    """The network of all services."""
    encryption = ["--opt=encrypted"] if encrypted else []
    return (
        "docker",
        "network",
        "create",
        "--driver=overlay",
        f"--subnet={SUBNET}",
        "--attachable",
        *encryption,
        NETWORK,
    )


def create_secret(name: str, labels: Mapping[str, str]) -> Command:
    """A secret whose content comes by standard input."""
    return ("docker", "secret", "create", *(f"--label={key}={value}" for key, value in labels.items()), name, "-")


def remove(kind: str, names: Iterable[str]) -> Command:
    """Remove secrets, networks or volumes."""
    return ("docker", kind, "rm", *names)


# Stack --------------------------------------------------------------------------------------------------------------


def stack_environment(tag: str, edge_tag: str, generation: int, engines: str) -> dict[str, str]:
    """What deploy/stack.yaml is filled in with; `engines` are those that run training."""
    return {
        "MLBUFFET_TAG": tag,
        "MLBUFFET_EDGE_TAG": edge_tag,
        "MLBUFFET_CERTIFICATES": suffix(generation),
        "MLBUFFET_ENGINES": engines,
    }


def deploy_stack(files: Sequence[Path], *, detach: bool) -> Command:
    """Bring the stack to what its files say; images are those that the nodes have."""
    options = ["--detach=true"] if detach else []
    options += [f"--compose-file={file}" for file in files]
    return ("docker", "stack", "deploy", "--prune", "--resolve-image=never", *options, STACK)


def remove_stack() -> Command:
    """Remove all services."""
    return ("docker", "stack", "rm", STACK)


def scale(service: str, replicas: int) -> Command:
    """Have so many tasks of a service."""
    return ("docker", "service", "scale", "--detach", f"{full_name(service)}={replicas}")


def update_image(service: str, tag: str, previous: str) -> Command:
    """Replace a service's tasks by such of another image, and note the one before; without one, forget it."""
    noted = f"--label-add={PREVIOUS_LABEL}={previous}" if previous else f"--label-rm={PREVIOUS_LABEL}"
    chosen = ("--no-resolve-image", f"--image={image(service, tag)}", noted)
    return ("docker", "service", "update", "--detach", *chosen, full_name(service))


def replace_certificate(service: str, present: Iterable[str], generation: int) -> Command:
    """Give a service the certificate and key of another generation, in place of those among its present secrets."""
    options = [f"--secret-rm={name}" for name in present if is_certificate(name)]
    for name, path in certificates_of(service, generation).items():
        options.append(f"--secret-add=source={name},target={path},uid={_USER},mode=0400")
    return ("docker", "service", "update", "--detach", "--no-resolve-image", *options, full_name(service))


# In place of the one before, whole: who follows the file never finds half of it.
_REPLACE_CERTIFICATE = "set -e; umask 277; rm -f .new; cat > .new; mv -f .new edge.pem"


def put_certificate(tag: str) -> Command:
    """Put the edge's certificate and key, on standard input, where the edge follows them."""
    place = (f"--volume={STACK}_tls:/tls", "--workdir=/tls")
    return (*_CONFINED, *place, "--entrypoint=sh", image("edge", tag), "-c", _REPLACE_CERTIFICATE)


# Repository -----------------------------------------------------------------------------------------------------------

# Pointers first: what they name was there before them, and nothing that is there ever changes. So the second archive
# has it, unless it was deleted meanwhile; then there is no such model in the copy either.
_COPY = """set -e
find . -mindepth 2 -maxdepth 2 -name default | tar --create --file=- --files-from=-
tar --create --file=- --exclude=./.mlbuffet/staging --exclude=./.mlbuffet/locks --exclude=./.mlbuffet/generation \\
    --exclude='./*/default' ."""


def copy_repository(tag: str) -> Command:
    """A copy of the repository on standard output: two archives, one behind the other."""
    return (*_beside_repository(tag, "ro"), _COPY)


def fill_repository(tag: str) -> Command:
    """Put a copy on standard input back."""
    return (*_beside_repository(tag, "rw"), "tar --extract --file=- --ignore-zeros --no-overwrite-dir")


def _beside_repository(tag: str, access: str) -> Command:
    """A container that has the repository, no network, and runs what follows."""
    place = (f"--volume={STACK}_repository:/repository:{access}", "--workdir=/repository")
    return (*_CONFINED, *place, "--entrypoint=sh", image("inferrer", tag), "-c")
