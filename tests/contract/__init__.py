"""What clients rely on."""
