"""The long soak: a million predictions, ten thousand changes, a hundred thousand errors, and faults all the while.

    python -m benchmarks.soak              # all of it → results/soak.md, results/soak.json
    python -m benchmarks.soak --share 0.1  # the same shape, a tenth

Ends with status 1 when a request failed, a process grew by more than 16 MiB, or anything else that must hold does not.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import report
from benchmarks.environments import HERE
from benchmarks.machine import describe_machine
from benchmarks.processes import end_on_sigterm
from tests.harness.invariants import unharmed
from tests.harness.platform import running_platform
from tests.harness.soak import GROWTH_BYTES, Size, Soak

_MIB = 1 << 20


def _text(soak: Soak, machine: dict[str, object], took_s: float, broken: str) -> str:
    faults = sum(soak.faults.values())
    counts = [*soak.done.items(), ("failed", sum(soak.failures.values())), ("faults", faults), *soak.faults.items()]
    failures = "\n".join(f"- {count:,} times `{text}`" for text, count in soak.failures.most_common(20))
    growth = [(who, f"{begun / _MIB:.1f}", f"{more / _MIB:+.1f}") for who, begun, more in soak.growth()]
    most = max((more for _, _, more in soak.growth()), default=0) / _MIB
    return f"""# Soak

{report.facts(machine, {})}
- {took_s:,.0f} s; {"everything held" if not broken else f"**broken**: {broken}"}
- most growth of a process that lived through it: {most:.1f} MiB of {GROWTH_BYTES // _MIB} allowed

{report.table(("What", "How often"), ((what, f"{count:,}") for what, count in counts))}

{failures}

{report.table(("Process", "RSS before, MiB", "growth, MiB"), growth)}
""".replace("\n\n\n\n", "\n\n")


def main() -> int:
    """Soak, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="how much of the full size (default: 1)")
    size = Size().part(parser.parse_args().share)
    end_on_sigterm()
    machine, began, broken = describe_machine(), time.monotonic(), ""
    with tempfile.TemporaryDirectory() as folder, running_platform(Path(folder) / "repository") as platform:
        soak = Soak(platform, size)
        try:
            with unharmed(platform, rss_bytes=GROWTH_BYTES):
                soak.run()
        except AssertionError as error:
            broken = str(error)
    took_s = time.monotonic() - began
    data = {"machine": machine, "seconds": took_s, "broken": broken, "done": soak.done, "faults": soak.faults}
    data |= {"failures": soak.failures, "growth": list(soak.growth())}
    report.write(HERE / "results", "soak", data, _text(soak, machine, took_s, broken))
    return 1 if broken or soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())
