"""The platform on Docker Swarm, two nodes of it."""
