"""The platform as real processes."""
