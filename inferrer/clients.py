"""Which address a request comes from, where proxies stand between. Pure.

A proxy that is trusted appends the address it was asked from to X-Forwarded-For. What stands further left was said by
somebody else, so only what the trusted ones say counts: the last address that is none of theirs.
"""

import ipaddress
from collections.abc import Iterable


class Proxies:
    """The proxies whose word is taken: addresses, or networks as 10.0.13.0/24.

    Raises:
        ValueError: what is listed is neither.
    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(text) for text in trusted]

    def client(self, peer: str, forwarded: str) -> str:
        """The client's address, by the peer's and the X-Forwarded-For that came with the request."""
        client = _address(peer)
        if not self._networks:
            return str(client or peer)
        for hop in reversed(forwarded.split(",")):
            if client is None or not any(client in network for network in self._networks):
                break
            before = _address(hop.strip())
            if before is None:
                break  # a proxy that does not know; it is the last that is known of
            client = before
        return str(client or peer)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address without port and brackets; one of IPv4 in the clothes of IPv6 is taken for what it is."""
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
