"""Which address a request comes from, where proxies stand between. Pure: whoever looks names up says what was found.

A proxy that is trusted appends the address it was asked from to X-Forwarded-For. What stands further left was said by
somebody else, so only what the trusted ones say counts: the last address that is none of theirs.
"""

import ipaddress
import re
from collections.abc import Iterable

_NAME = re.compile(r"(?=.*[a-z])[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.IGNORECASE)

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxies:
    """The proxies whose word is taken: addresses, networks as 10.0.13.0/24, or names that are looked up.

    Raises:
        ValueError: what is listed is none of these.
    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        listed = list(trusted)
        self.names = tuple(text for text in listed if _NAME.fullmatch(text))
        self._networks = [ipaddress.ip_network(text) for text in listed if text not in self.names]
        self._found: dict[str, frozenset[_Address | None]] = {}

    def found(self, name: str, addresses: Iterable[str]) -> None:
        """Take note of a name's addresses; where none were found, the last ones hold."""
        known = frozenset(map(_address, addresses))
        if known:
            self._found[name] = known

    def client(self, peer: str, forwarded: str) -> str:
        """The client's address, by the peer's and the X-Forwarded-For that came with the request."""
        client = _address(peer)
        for hop in reversed(forwarded.split(",")):
            if client is None or not self._is_trusted(client):
                break
            before = _address(hop.strip())
            if before is None:
                break  # a proxy that does not know; it is the last that is known of
            client = before
        return str(client or peer)

    def _is_trusted(self, address: _Address) -> bool:
        return any(address in network for network in self._networks) or any(
            address in known for known in list(self._found.values())
        )


def _address(text: str) -> _Address | None:
    """An address without port and brackets; one of IPv4 in the clothes of IPv6 is taken for what it is."""
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
