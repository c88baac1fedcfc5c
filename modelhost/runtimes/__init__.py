"""Runtimes: what executes a model. Each module here is the only import of its library."""
