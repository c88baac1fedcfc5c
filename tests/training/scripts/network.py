"""T11: tries to reach anybody: by TCP, UDP, DNS, IPv6, a raw socket, and whoever else answers on this machine."""

import errno
import json
import os
import socket
from pathlib import Path

MARKER = os.environ["MLBUFFET_PARAM_MARKER"]


def attempt(family: socket.AddressFamily, kind: socket.SocketKind, address: tuple[str, int]) -> str:
    """What comes of sending something there."""
    try:
        with socket.socket(family, kind) as opened:
            opened.settimeout(1)
            opened.connect(address)
            opened.send(f"script {MARKER}".encode())
            return "sent"
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def resolve(name: str) -> str:
    """What comes of asking for a name, which can carry a secret out."""
    try:
        return str(socket.getaddrinfo(name, 80))
    except OSError as error:
        return type(error).__name__


for target in os.environ["MLBUFFET_PARAM_TARGETS"].split():
    host, _, port = target.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        print(json.dumps({"to": target, "kind": kind.name, "outcome": attempt(family, kind, (host, int(port)))}))
for name in (
    f"{MARKER}.example.com",
    MARKER,
    "trainer",
    "inferrer",
    "host.docker.internal",
    "metadata.google.internal",
):
    print(json.dumps({"to": name, "kind": "DNS", "outcome": resolve(name)}))
for family, protocol in ((socket.AF_INET, socket.IPPROTO_ICMP), (socket.AF_PACKET, 3), (socket.AF_INET, 255)):
    try:
        socket.socket(family, socket.SOCK_RAW, protocol).close()
    except OSError as error:
        outcome = errno.errorcode[error.errno or 0]
    else:
        outcome = "opened"
    print(json.dumps({"to": f"raw {family.name}", "kind": "SOCK_RAW", "outcome": outcome}))
print(json.dumps({"interfaces": [name for _, name in socket.if_nameindex()]}))
print(json.dumps({"routes": Path("/proc/net/route").read_text().splitlines()[1:]}))
