"""T05: a fork bomb, or as many threads as it can get; says how many there were and what came then."""

import json
import os
import threading
import time

KIND = os.environ["MLBUFFET_PARAM_KIND"]
count, outcome = 0, "none refused"
try:
    while count < 100_000:
        if KIND == "threads":
            threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
        elif os.fork() == 0:
            while True:
                time.sleep(3600)
        count += 1
except (OSError, RuntimeError) as error:
    outcome = f"{type(error).__name__} {error}"
print(json.dumps({"started": count, "outcome": outcome}), flush=True)
while KIND == "bomb":  # and keep trying
    try:
        if os.fork() == 0:
            continue
    except OSError:
        time.sleep(0.01)
