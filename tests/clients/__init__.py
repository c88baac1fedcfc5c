"""Standard clients, each run as itself in an environment of its own, against the real platform."""
