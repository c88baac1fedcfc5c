"""Puts the platform on a Docker Swarm: what is asked of the engine, in which order, and what the answers mean."""
