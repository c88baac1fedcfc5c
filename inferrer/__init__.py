"""The gateway: the one address that clients know."""
