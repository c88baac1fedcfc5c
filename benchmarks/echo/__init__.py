"""Echo servers and clients over the data channel and what could stand in its place, all run by `exchange`."""
