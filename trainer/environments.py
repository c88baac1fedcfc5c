"""Which environments are complete on which engine: a volume with installed requirements is used again.

An engine cannot tell a complete volume from one whose installation was interrupted, so this is written down here, with
the token that the volume was labelled with: one that was made anew since has another.
"""

import hashlib
import os
from pathlib import Path


class Environments:
    """The records of one engine."""

    def __init__(self, root: Path, address: str, most: int) -> None:
        self._folder = root / hashlib.sha256(address.encode()).hexdigest()[:16]
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._most = most

    def is_complete(self, name: str, token: str) -> bool:
        """Tell whether the volume with this token is complete; it is then used again now."""
        path = self._folder / name
        try:
            complete = path.read_text() == token
        except FileNotFoundError:
            return False
        if complete:
            os.utime(path)
        return complete

    def complete(self, name: str, token: str) -> None:
        """Note that a volume is complete; it is in use now."""
        path = self._folder / name
        beside = path.with_suffix(".new")
        beside.write_text(token)
        beside.rename(path)

    def surplus(self) -> list[str]:
        """Volumes beyond as many as are kept, the least recently used first."""
        known = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)
        return [path.name for path in known[: -self._most]]

    def forget(self, name: str) -> None:
        """A volume is gone."""
        (self._folder / name).unlink(missing_ok=True)
