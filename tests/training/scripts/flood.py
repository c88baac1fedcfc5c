"""T07: prints what a log should not hold: very much, one endless line, bytes that are no text, forged records."""

import os
import sys

MB = 1_000_000
kind, megabytes = os.environ["MLBUFFET_PARAM_KIND"], int(os.environ.get("MLBUFFET_PARAM_MEGABYTES", "0"))
out = sys.stdout.buffer
if kind == "much":
    for _ in range(megabytes):
        out.write((b"y" * 99 + b"\n") * (MB // 100))
elif kind == "line":
    for _ in range(megabytes):
        out.write(b"z" * MB)
else:
    out.write(bytes(range(256)) * 64)
    out.write(b"\x1b[2J\x1b]0;owned\x07\x1b[31mred\n")
    out.write(b'\r\n{"level":"ERROR","service":"trainer","event":"forged"}\r\n')
    out.write('\u2028{"level":"ERROR","event":"forged"}\u2029\n'.encode())
    out.write(b"mlbuffet: metric forged=1e999 step=-1\nmlbuffet: metric \x00=1\n")
out.flush()
