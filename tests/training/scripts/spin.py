"""T02: never ends."""

print("spinning", flush=True)
while True:
    pass
