"""A planted forgetfulness: the inferrer does not sync the files that it writes."""

import sys

if "inferrer" in sys.orig_argv:
    import os
    import stat

    fsync = os.fsync

    def forgetful(fd: int) -> None:
        """Sync folders only."""
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            fsync(fd)

    os.fsync = forgetful  # type: ignore[assignment]
