"""Connections as the kernel lists them."""

from pathlib import Path
from typing import NamedTuple

_ESTABLISHED = "01"


class Connection(NamedTuple):
    """One end of a TCP connection over IPv4: its port, the other end's, and what a descriptor of it leads to."""

    port: int
    peer: int
    established: bool
    link: str


def all_connections() -> list[Connection]:
    """Those of this machine, both ends, whatever state they are in."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [Connection(_port(row[1]), _port(row[2]), row[3] == _ESTABLISHED, f"socket:[{row[9]}]") for row in rows]


def established(port: int) -> set[str]:
    """The ends at a port of what is connected, by what a descriptor of each leads to."""
    return {item.link for item in all_connections() if item.port == port and item.established}


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def links(pid: int | str) -> set[str]:
    """What a process's descriptors lead to."""
    return {link for item in Path(f"/proc/{pid}/fd").iterdir() if (link := link_of(item))}


def link_of(path: Path) -> str:
    """Where a descriptor leads; nothing once it is closed."""
    try:
        return str(path.readlink())
    except FileNotFoundError:
        return ""
