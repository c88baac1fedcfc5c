"""What commands write: JSON for programs, lines for people."""

import io
import json
import sys

import click

_UNIT = 1000


def write_anything() -> None:
    """Write what the terminal's encoding lacks as an escape instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """Text with control characters shown: a description is somebody else's, and must not steer this terminal."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def write_json(data: object) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(data))


def write_line(text: str) -> None:
    """One line for a person."""
    click.echo(printable(text))


def size(size_bytes: float) -> str:
    """A number of bytes as people read it."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < _UNIT:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= _UNIT
    return f"{size_bytes:.3g} GB"
