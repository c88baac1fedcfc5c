"""Watches what leaves a network namespace: where packets go, and which words are asked of DNS.

`with Sniffer(pid, words) as sniffer: …` watches the namespace of a process, as root; then `sniffer.seen` tells.
"""

import ipaddress
import json
import selectors
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Self

from tests.harness.platform import ROOT

_OUTGOING = 4  # linux/if_packet.h
_ALL, _IPV4 = 0x0003, 0x0800  # linux/if_ether.h
_UDP = 17
_END_S = 20


@dataclass(frozen=True, slots=True)
class Seen:
    """The addresses that packets went to, and the words that were in datagrams."""

    destinations: frozenset[str]
    words: frozenset[str]

    def beyond(self, *networks: str) -> set[str]:
        """The addresses outside of these networks."""
        known = [ipaddress.ip_network(text) for text in networks]
        return {
            text for text in self.destinations if not any(ipaddress.ip_address(text) in network for network in known)
        }


class Sniffer:
    """A process of its own in the other namespace."""

    def __init__(self, pid: int, words: tuple[str, ...]) -> None:
        self._command = ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-m", __name__, *words]
        self.seen = Seen(frozenset(), frozenset())

    def __enter__(self) -> Self:
        """Begin; from now on nothing is missed."""
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        """End, and tell."""
        printed = self._process.communicate(timeout=_END_S)[0]
        destinations, words = json.loads(printed)
        self.seen = Seen(frozenset(destinations), frozenset(words))


def main() -> None:
    """Watch until standard input ends."""
    words = {word.encode(): word for word in sys.argv[1:]}
    destinations: set[str] = set()
    found: set[str] = set()
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL)) as sock,
        selectors.DefaultSelector() as on,
    ):
        on.register(sock, selectors.EVENT_READ)
        on.register(sys.stdin, selectors.EVENT_READ)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            ready = {key.fileobj for key, _ in on.select()}
            if sock in ready:
                data, (_, protocol, kind, *_) = sock.recvfrom(1 << 16)
                if kind == _OUTGOING and protocol == _IPV4:
                    destinations.add(socket.inet_ntoa(data[16:20]))
                    found |= {word for sent, word in words.items() if data[9] == _UDP and sent in data}
            elif sys.stdin in ready:
                break
    sys.stdout.write(json.dumps([sorted(destinations), sorted(found)]))


if __name__ == "__main__":
    main()
