"""What is called how on the Swarm: services, images, secrets, volumes, as deploy/stack.yaml has them. Pure."""

import re
from collections.abc import Iterable

STACK = "mlbuffet"
NETWORK = "mlbuffet_overlay"
SUBNET = "10.0.13.0/24"
REPOSITORY_LABEL = "mlbuffet.repository"  # of the node that has the repository's volume
PREVIOUS_LABEL = "mlbuffet.previous"  # of a service: the tag before the last update
EXPIRES_LABEL = "mlbuffet.expires"  # of a certificate's secret
AUTHORITY_LABEL = "mlbuffet.authority"  # of an authority's: its fingerprint
GATEWAY = "docker_gwbridge"  # each node's network by which a task reaches its own host
ENGINE_PORT = 2376
ENGINES = "TRAINER_ENGINES"  # the trainer's setting: each engine with its slots

# In the order of an update: who is asked by others comes first.
SERVICES = {
    "modelhost": "modelhost",
    "mirror": "modelhost",
    "trainer": "trainer",
    "inferrer": "inferrer",
    "metrics": "metrics",
    "edge": "edge",
}
IMAGES = ("inferrer", "modelhost", "trainer", "metrics", "edge")
SCALED = ("inferrer", "modelhost")
ENGINE = "engine"  # the role of who commands engines, which their own authority signs
# Which services have each role's certificate.
ROLES = {
    "inferrer": ("inferrer",),
    "modelhost": ("modelhost", "mirror"),
    "trainer": ("trainer",),
    ENGINE: ("trainer",),
    "metrics": ("metrics",),
}
VOLUMES = tuple(f"{STACK}_{name}" for name in ("repository", "sockets", "cache", "training", "metrics", "tls"))

AUTHORITY = f"{STACK}_ca"
ENGINE_AUTHORITY = f"{STACK}_{ENGINE}_ca"
TRAINER_KEY = f"{STACK}_trainer_api_key"  # by which an inferrer knows the trainer
KEY_HASH = f"{STACK}_key_hash"
FIRST_KEYS = f"{STACK}_first_keys"
METRICS_KEY = f"{STACK}_metrics_api_key"
METRICS_WEB = f"{STACK}_metrics_web"
METRICS_PASSWORD = f"{STACK}_metrics_password"
METRICS_ACCESS = (METRICS_PASSWORD, METRICS_WEB)  # these two as well
KEYS = (FIRST_KEYS, METRICS_KEY, KEY_HASH)  # made together, in this order
_CERTIFICATE = re.compile(rf"{STACK}_(?P<role>\w+?)_(?P<part>cert|key)(?P<suffix>_[1-9]\d*)?")


def full_name(service: str) -> str:
    """A service as the Swarm calls it."""
    return f"{STACK}_{service}"


def image(service: str, tag: str) -> str:
    """The image that a service runs."""
    return f"{STACK}/{SERVICES.get(service, service)}:{tag}"


def tag_of(reference: str) -> str:
    """The tag in an image's reference, with or without a digest behind it."""
    return reference.partition("@")[0].rpartition(":")[2]


def suffix(generation: int) -> str:
    """What the names of a generation's certificates end in: nothing for the first."""
    return "" if generation <= 1 else f"_{generation}"


def certificate_names(generation: int) -> list[str]:
    """The secrets of a generation: a certificate and a key for each role."""
    return [name for role in ROLES for name in pair_names(role, generation)]


def pair_names(role: str, generation: int) -> tuple[str, str]:
    """The secrets of a generation that a role has: the certificate and its key."""
    certificate, key = (f"{STACK}_{role}_{part}{suffix(generation)}" for part in ("cert", "key"))
    return certificate, key


def certificates_of(service: str, generation: int) -> dict[str, str]:
    """The secrets of a generation that a service has, each with its path in the task; none without a role."""
    found: dict[str, str] = {}
    for role in (role for role, services in ROLES.items() if service in services):
        folder = "engine" if role == ENGINE else "tls"
        certificate, key = pair_names(role, generation)
        found |= {certificate: f"{folder}/cert.pem", key: f"{folder}/key.pem"}
    return found


def generations(secrets: Iterable[str]) -> list[int]:
    """The generations that secrets belong to, complete or not, in order."""
    found = (_CERTIFICATE.fullmatch(name) for name in secrets)
    return sorted(
        {int((match["suffix"] or "_1")[1:]) for match in found if match is not None and match["role"] in ROLES}
    )


def newest_generation(secrets: Iterable[str]) -> int:
    """The newest generation that is complete; 0 when there is none."""
    present = set(secrets)
    return max((number for number in generations(present) if present.issuperset(certificate_names(number))), default=0)


def is_ours(secret: str) -> bool:
    """Tell whether a secret is one of those that this program makes."""
    return secret in {AUTHORITY, ENGINE_AUTHORITY, TRAINER_KEY, *KEYS, *METRICS_ACCESS} or is_certificate(secret)


def is_certificate(secret: str) -> bool:
    """Tell whether a secret is a certificate or its key, of whatever generation."""
    match = _CERTIFICATE.fullmatch(secret)
    return match is not None and match["role"] in ROLES
