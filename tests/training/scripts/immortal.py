"""T03: does all to outlive its end: no SIGTERM, sessions of its own, orphans, a successor at its exit."""

import atexit
import os
import signal
import subprocess
import sys
import time

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)


def respawn() -> None:
    """Begin anew as somebody else's child."""
    subprocess.Popen([sys.executable, *sys.argv], start_new_session=True)


atexit.register(respawn)
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                time.sleep(0.05)
        os._exit(0)
print("four orphans", flush=True)
if os.environ.get("MLBUFFET_PARAM_LEAVE") == "true":  # with the orphans behind
    sys.exit(0)
while True:
    time.sleep(0.05)
