"""Where modelhosts are now: places from the settings, looked up.

`tcp://name:port` is asked of DNS and may have many addresses; a `unix:` folder may hold many sockets.
"""

import asyncio
import logging
from pathlib import Path

from mlbuffet.endpoints import Address, sockets_in

log = logging.getLogger(__name__)

_LOOKUP_S = 5


async def look_up(place: str) -> frozenset[Address]:
    """The addresses that a place has now; empty when it cannot be told."""
    address = Address.parse(place)
    try:
        if address.path:
            return _sockets(Path(address.path))
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_LOOKUP_S):
            found = await loop.getaddrinfo(address.host, address.port, type=1)
    except (OSError, TimeoutError) as error:
        log.warning("modelhosts not found", extra={"place": place, "why": str(error)})
        return frozenset()
    return frozenset(Address(host=str(item[4][0]), port=address.port) for item in found)


def _sockets(folder: Path) -> frozenset[Address]:
    """The sockets in a folder, or the one at a path."""
    if folder.is_dir():
        return frozenset(Address(path=str(path)) for path in sockets_in(folder))
    return frozenset({Address(path=str(folder))}) if folder.is_socket() else frozenset()
