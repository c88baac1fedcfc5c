"""A planted forgetfulness: the inferrer does not sync the folders that name what it wrote."""

import sys

if "inferrer" in sys.orig_argv:
    from pathlib import Path

    from inferrer import storage

    def sync_folder(folder: Path) -> None:
        """Forget it."""

    storage.sync_folder = sync_folder
