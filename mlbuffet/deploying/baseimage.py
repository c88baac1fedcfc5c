"""A base image with Python where there is no registry to have one from: Debian's packages, unpacked and imported."""

import shutil
import tempfile
from pathlib import Path

from mlbuffet.deploying import commands
from mlbuffet.deploying.engine import Engine

_TRUSTED = Path("/usr/local/share/ca-certificates")


def make_base_image(engine: Engine, name: str, suite: str, trusted: Path = _TRUSTED) -> None:
    """Make the image; certificates that this machine trusts besides Debian's, it trusts too.

    Raises:
        EngineError: debootstrap is not installed, there is no right to use it, or a package cannot be fetched.
    """
    with tempfile.TemporaryDirectory(prefix="mlbuffet-base-", dir="/var/tmp") as folder:
        root = Path(folder) / "root"
        engine.run(commands.bootstrap(root, suite))
        for certificate in trusted.glob("*.crt"):
            shutil.copy(certificate, root / trusted.relative_to("/"))
        engine.run(commands.trust_certificates(root))
        engine.pipe(commands.pack(root), commands.import_image(name))
