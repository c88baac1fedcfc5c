"""An operation of a modelhost, called over the data channel as an inferrer would."""

import socket
from collections.abc import Mapping
from typing import Any

import orjson

from mlbuffet.blocking import FrameReader
from mlbuffet.channel import Kind, encode_frame
from tests.harness.platform import RunningPlatform

_ID = 7


def call(platform: RunningPlatform, host: str, operation: str, arguments: Mapping[str, object]) -> dict[str, Any]:
    """Call it; returns its answer."""
    body, key = orjson.dumps(arguments), operation.encode()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(platform.settings[host]["MODELHOST_CHANNEL"].removeprefix("unix:"))
        sock.sendall(encode_frame(Kind.CALL, 0, 0, key, _ID, 0, len(body)) + body)
        reader = FrameReader(sock)
        while True:
            for kind, _, _, number, _, answer in reader.read():
                if number == _ID:
                    assert kind == Kind.REPLY, bytes(answer)
                    result: dict[str, Any] = orjson.loads(answer)
                    return result
