"""What the tests stand on: the real platform as processes, real models made on the spot."""
