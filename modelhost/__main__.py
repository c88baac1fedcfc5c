"""Starts a modelhost: `python -m modelhost`, settings from the environment."""

import sys

import uvloop

from mlbuffet.chassis.logs import configure_logs
from mlbuffet.chassis.settings import SettingsError
from modelhost.app import serve
from modelhost.settings import read_modelhost_settings


def main() -> None:
    """Run until stopped."""
    try:
        settings = read_modelhost_settings()
    except SettingsError as error:
        sys.exit(f"modelhost: {error}")
    configure_logs("modelhost", settings.log_level)
    sys.exit(uvloop.run(serve(settings)))


if __name__ == "__main__":
    main()
