"""Starts the trainer: `python -m trainer`, settings from the environment."""

import sys

import uvloop

from mlbuffet.chassis.logs import configure_logs
from mlbuffet.chassis.settings import SettingsError
from trainer.app import serve
from trainer.settings import read_trainer_settings


def preload() -> None:
    """Import all that is needed: what this module stands on."""


def main() -> None:
    """Run until stopped."""
    try:
        settings = read_trainer_settings()
    except SettingsError as error:
        sys.exit(f"trainer: {error}")
    configure_logs("trainer", settings.log_level)
    sys.exit(uvloop.run(serve(settings)))


if __name__ == "__main__":
    main()
