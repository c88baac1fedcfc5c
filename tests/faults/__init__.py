"""What goes wrong, injected into the real platform: whoever is not concerned must not notice."""
