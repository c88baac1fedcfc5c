"""T04: takes memory until there is none, and says how much it had."""

kept = []
while True:
    kept.append(bytearray(10**7))
    print(f"{len(kept) * 10} MB", flush=True)
