"""A planted race: a change of the default is announced before it is made, so a reader between the two keeps the old."""

import sys

if "inferrer" in sys.orig_argv:
    from inferrer.repository import Repository
    from mlbuffet.index import DEFAULT_FILE

    def set_default(self: Repository, name: str, version: int) -> None:
        """Flip a model's pointer, too late."""
        self.announce(name)
        self._replace(self.root / name / DEFAULT_FILE, f"{version}\n".encode())

    Repository.set_default = set_default  # type: ignore[method-assign]
