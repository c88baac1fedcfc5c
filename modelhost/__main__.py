"""Starts a modelhost: `python -m modelhost`, settings from the environment."""

import importlib
import os
import sys

import uvloop

from mlbuffet.chassis.logs import configure_logs
from mlbuffet.chassis.settings import SettingsError
from modelhost.app import serve
from modelhost.launch import ONE_THREAD, launch_forkserver
from modelhost.settings import read_modelhost_settings


def preload() -> None:
    """Warm up for the fork servers of several modelhosts, so that they share the memory.

    By name: a modelhost that shares with nobody has no use for the runtime.
    """
    os.environ.update(ONE_THREAD)
    importlib.import_module("modelhost.forkserver").warm_up()


def main() -> None:
    """Run until stopped."""
    try:
        settings = read_modelhost_settings()
    except SettingsError as error:
        sys.exit(f"modelhost: {error}")
    configure_logs("modelhost", settings.log_level)
    # Before the loop: it may be a fork of this process.
    sys.exit(uvloop.run(serve(settings, launch_forkserver())))


if __name__ == "__main__":
    main()
