"""A planted leak: the inferrer keeps 1 KB of each frame that it sends to a modelhost."""

import sys
from typing import Any

if "inferrer" in sys.orig_argv:
    from mlbuffet.channel import FrameProtocol

    kept: list[bytes] = []
    send = FrameProtocol.send

    def leaking(self: FrameProtocol, *frame: Any) -> None:  # noqa: ANN401 - whatever it is
        """Send, and keep something."""
        kept.append(b"x" * (1000 + len(kept) % 24))
        send(self, *frame)

    FrameProtocol.send = leaking  # type: ignore[assignment, method-assign]
