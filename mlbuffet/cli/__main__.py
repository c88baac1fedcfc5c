"""Runs the command line as `python -m mlbuffet.cli`."""

from mlbuffet.cli import main

if __name__ == "__main__":
    main(prog_name="mlbuffet")
